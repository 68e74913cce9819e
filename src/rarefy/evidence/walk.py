"""The walk: segment after segment, each fed with what the already coded ones produce.

Resident at any time: one segment's weights, one micro-batch of activations, and the statistics of that segment. The
activations between segments are on disk. A finished segment is in the journal, and a walk begun again goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rarefy import heap
from rarefy.evidence.passes import Passes
from rarefy.evidence.ranges import RangeGatherer, Ranges, range_obstacle
from rarefy.evidence.sites import Gathered, Visit, Visited, sites
from rarefy.evidence.statistics import MomentGatherer, SecondMoment, Statistic, moment_obstacle
from rarefy.families import Segments

if TYPE_CHECKING:
    from torch import nn

    from rarefy.evidence.evidence import Evidence
    from rarefy.model import Model


GATHERED: Final[Mapping[Statistic, tuple[Callable[[nn.Module], str], Any]]] = {
    SecondMoment(): (moment_obstacle, MomentGatherer),
    Ranges(): (range_obstacle, RangeGatherer),
}
"""What a walk can gather: why a layer has none of it, and who gathers it."""


def walk(model: Model, evidence: Evidence, needs: frozenset[Statistic], visit: Visit, name: str) -> list[Visited]:
    """Visit every site of `model` in order of execution; what each segment's visit made, in order.

    Where `needs` is empty no data are run, and every site is visited at once per segment. `name` tells this walk
    from others in the journal. Raises ValueError for a statistic that only other passes gather.
    """
    if needs - GATHERED.keys():
        raise ValueError(f"a walk gathers no {min(need.NAME for need in needs - GATHERED.keys())}")
    segments = Segments(model)
    if not needs:
        made: list[Visited] = []
        for i in range(len(segments)):
            made.append(_at_rest(model, segments, i, evidence, visit, made, name))
        return made
    return _Walk(model, segments, evidence, visit, name, needs).run()


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

    def __init__(
        self,
        model: Model,
        segments: Segments,
        evidence: Evidence,
        visit: Visit,
        name: str,
        needs: frozenset[Statistic],
    ) -> None:
        super().__init__(model, segments, evidence, visit, name)
        self._needs = sorted(needs, key=lambda need: need.NAME)

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
        gathered = self._gather(i, advance)
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

    def _gather(self, i: int, advance: Callable[[int], None]) -> Gathered:
        """What is asked for of the segment's sites, micro-batches in their order, or why there is none."""
        module, gathered, gatherers = self.segments.module, {}, {}
        for need in self._needs:
            obstacle, gatherer = GATHERED[need]
            gathered[need], uses = self._uses(i, obstacle)
            if uses:
                gatherers[need] = gatherer(module, uses, self.processes)
        if not gatherers:
            advance(len(self.batches))
            return gathered
        tensors = self._tensors(i)
        try:
            for j in range(len(self.batches)):
                self._run(i, tensors, j)
                for each in gatherers.values():
                    each.next_batch()
                advance(1)
        finally:
            for each in gatherers.values():
                each.remove()
        del tensors
        return {
            need: {**found, **gatherers[need].gathered()} if need in gatherers else found
            for need, found in gathered.items()
        }

    def _uses(self, i: int, obstacle: Callable[[nn.Module], str]) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        """Of the segment's parameters: why there is nothing to be gathered, and of the others the layers to watch."""
        why: dict[str, Any] = {}
        uses = {}
        for place in self.segments.places()[i]:
            obstacles = {path: obstacle(self.segments.module.get_submodule(path)) for path in place.modules}
            free = tuple(path for path, reason in obstacles.items() if not reason)
            if free:
                uses[place.parameter] = free
            else:
                why[place.parameter] = obstacles[place.modules[0]]
        return why, uses
