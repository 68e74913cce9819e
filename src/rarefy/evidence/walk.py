"""The walk: segment after segment, each fed with what the already coded ones produce.

Resident at any time: one segment's weights, one micro-batch of activations, and the statistics of that segment. The
activations between segments are on disk. A finished segment is in the journal, and a walk begun again goes on there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rarefy import heap
from rarefy.evidence.passes import Passes
from rarefy.evidence.sites import Gathered, Visit, Visited, sites
from rarefy.evidence.statistics import Moment, MomentGatherer, SecondMoment, Statistic, moment_obstacle
from rarefy.families import Segments

if TYPE_CHECKING:
    from rarefy.evidence.evidence import Evidence
    from rarefy.model import Model


def walk(model: Model, evidence: Evidence, needs: frozenset[Statistic], visit: Visit, name: str) -> list[Visited]:
    """Visit every site of `model` in order of execution; what each segment's visit made, in order.

    Where `needs` is empty no data are run, and every site is visited at once per segment. `name` tells this walk
    from others in the journal. Raises ValueError for a statistic that only other passes gather.
    """
    if needs - {SecondMoment()}:
        raise ValueError(f"a walk gathers no {min(need.NAME for need in needs - {SecondMoment()})}")
    segments = Segments(model.skeleton)
    if not needs:
        made: list[Visited] = []
        for i in range(len(segments)):
            made.append(_at_rest(model, segments, i, evidence, visit, made, name))
        return made
    return _Walk(model, segments, evidence, visit, name).run()


def _at_rest(
    model: Model, segments: Segments, i: int, evidence: Evidence, visit: Visit, before: list[Visited], name: str
) -> Visited:
    """One segment of a walk that needs no data."""
    step = f"{name}-{i:04d}"
    with evidence.progress.task(f"coding {segments.names[i]}", len(segments), i) as advance:
        made = evidence.journal.load(step)
        if made is None:
            first = evidence.processes.first
            visited = visit(sites(model, segments, i, {}, model.codes), before) if first else Visited({})
            made = evidence.journal.save(step, visited)
        advance(1)
    return made


class _Walk(Passes):
    """One walk over data."""

    def _run_all(self) -> list[Visited]:
        # Each segment runs every batch twice: as it was, and as it was coded.
        passes = 2 * len(self.batches)
        made = self._resume()
        for i in range(len(made), len(self.segments)):
            with self.evidence.progress.task(
                f"coding {self.segments.names[i]}", passes * len(self.segments), passes * i
            ) as advance:
                made.append(self._segment(i, made, advance))
        return made

    def _resume(self) -> list[Visited]:
        """What the journal already has."""
        made: list[Visited] = []
        while len(made) < len(self.segments):
            found = self.evidence.journal.load(self._step(len(made)))
            if found is None:
                break
            made.append(found)
            self._adopt(found)
        if 0 < len(made) < len(self.segments):
            self._catch_up(len(made) - 1)
        return made

    def _adopt(self, visited: Visited) -> None:
        self.codes.maps.insert(0, visited.codes)  # type: ignore[arg-type]

    def _catch_up(self, last: int) -> None:
        """Bring back what the segment after `last` is fed with: from the spool, or by running what was coded since
        the last one that is whole. The network's first part runs in any case, for the blocks' other arguments."""
        self._learn_calls()
        whole = next((i for i in range(last, -1, -1) if self._spool(i).intact(len(self.batches))), -1)
        for i in range(whole + 1, last + 1):
            self._feed(i, self._tensors(i))
            if i > 0:
                self._spool(i - 1).discard()

    def _segment(self, i: int, made: list[Visited], advance: Callable[[int], None]) -> Visited:
        """Gather, visit, note down what was coded, and run it."""
        gathered: Gathered = {SecondMoment(): self._gather(i, advance)}
        heap.release()
        visited = self._visited(i, gathered, made)
        self._adopt(visited)
        del gathered
        heap.release()
        if i < len(self.segments) - 1:
            self._feed(i, self._tensors(i), advance)
        else:
            advance(len(self.batches))
        if i > 0:
            self._spool(i - 1).discard()
        heap.release()
        return visited

    def _gather(self, i: int, advance: Callable[[int], None]) -> dict[str, Moment | str]:
        """Second moments of the segment's sites, summed per micro-batch in batch order, or why there is none."""
        module = self.segments.module
        gathered: dict[str, Moment | str] = {}
        uses = {}
        for place in self.segments.places()[i]:
            obstacles = {path: moment_obstacle(module.get_submodule(path)) for path in place.modules}
            uses[place.parameter] = tuple(path for path, obstacle in obstacles.items() if not obstacle)
            if not uses[place.parameter]:
                gathered[place.parameter] = obstacles[place.modules[0]]
                del uses[place.parameter]
        if not uses:
            advance(len(self.batches))
            return gathered
        tensors = self._tensors(i)
        gatherer = MomentGatherer(module, uses, self.processes)
        try:
            for j in range(len(self.batches)):
                self._run(i, tensors, j)
                gatherer.next_batch()
                advance(1)
        finally:
            gatherer.remove()
        del tensors
        return gathered | gatherer.moments()
