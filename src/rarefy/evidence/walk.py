"""The walk: segment after segment, each fed with what the already coded ones produce.

Resident at any time: one segment's weights, one micro-batch of activations, and the statistics of that segment. The
activations between segments are on disk. A finished segment is in the journal, and a walk begun again goes on there.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rarefy import heap
from rarefy.evidence.sites import Site
from rarefy.evidence.spool import Spool
from rarefy.evidence.statistics import Moment, MomentGatherer, SecondMoment, Statistic, moment_obstacle
from rarefy.families import Segments
from rarefy.families.segments import Call
from rarefy.families.values import NotAChain, model_inputs, to_device
from rarefy.model import Model, decoded_by_name

if TYPE_CHECKING:
    import torch

    from rarefy.codes import Code
    from rarefy.evidence import Evidence

Visit = Callable[["list[Site]"], "Visited"]
"""What is done in a segment: its sites with their statistics -> new codes and notes."""


@dataclass(frozen=True)
class Visited:
    """What a visit made of a segment: new codes by key, and notes for the history (JSON values)."""

    codes: Mapping[str, Code]
    notes: dict[str, Any] = field(default_factory=dict)


def walk(model: Model, evidence: Evidence, needs: frozenset[Statistic], visit: Visit, name: str) -> list[Visited]:
    """Visit every site of `model` in order of execution; what each segment's visit made, in order.

    Where `needs` is empty no data are run, and every site is visited at once per segment. `name` tells this walk
    from others in the journal.
    """
    segments = Segments(model.skeleton)
    if not needs:
        return [_at_rest(model, segments, i, evidence, visit, name) for i in range(len(segments))]
    return _Walk(model, segments, evidence, needs, visit, name).run()


def _at_rest(model: Model, segments: Segments, i: int, evidence: Evidence, visit: Visit, name: str) -> Visited:
    """One segment of a walk that needs no data."""
    step = f"{name}-{i:04d}"
    with evidence.progress.task(f"coding {segments.names[i]}", len(segments), i) as advance:
        made = evidence.journal.load(step)
        if made is None:
            made = evidence.journal.save(step, visit(_sites(model, segments, i, {}, model.codes)))
        advance(1)
    return made


def _sites(
    model: Model,
    segments: Segments,
    i: int,
    gathered: Mapping[str, Moment | str],
    codes: Mapping[str, Code] | None = None,
    needs: Iterable[Statistic] = (),
) -> list[Site]:
    keys = model.keys
    made = []
    for place in segments.places()[i]:
        found = gathered.get(place.parameter, "no data were run")
        statistics = {} if isinstance(found, str) else dict.fromkeys(needs, found)
        obstacles = dict.fromkeys(needs, found) if isinstance(found, str) else {}
        key = keys[place.parameter]
        code = (model.codes if codes is None else codes)[key]
        made.append(Site(key, place.kind, segments.names[i], code, statistics, obstacles))
    return made


class _Walk:
    """One walk over data."""

    def __init__(
        self, model: Model, segments: Segments, evidence: Evidence, needs: frozenset[Statistic], visit: Visit, name: str
    ) -> None:
        self.model, self.segments, self.evidence = model, segments, evidence
        self.needs, self.visit, self.name = needs, visit, name
        # What a finished segment made stands before what was there; nothing is read until it is asked for.
        self.codes = ChainMap[str, Any]({}, model.codes)  # type: ignore[arg-type]
        self.keys = model.keys
        self.calls: list[list[Call]] = []
        self.batches = evidence.micro_batches()
        self.inputs = [model_inputs(segments.module, batch) for batch in self.batches]
        if segments.blocks:
            segments.probe(self._tensors(len(segments) - 1), to_device(self.inputs[0], evidence.device))

    def run(self) -> list[Visited]:
        import torch

        with torch.no_grad():
            try:
                return self._run_all()
            except NotAChain as error:
                self.segments.one_segment(str(error))
                self.codes = ChainMap[str, Any]({}, self.model.codes)  # type: ignore[arg-type]
                self.calls.clear()
                return self._run_all()

    def _run_all(self) -> list[Visited]:
        if self.segments.reason:
            self.evidence.progress.note(f"one segment, held in memory whole: {self.segments.reason}")
        # Each segment runs every batch twice: as it was, and as it was coded.
        passes = 2 * len(self.batches)
        made = self._resume()
        for i in range(len(made), len(self.segments)):
            with self.evidence.progress.task(
                f"coding {self.segments.names[i]}", passes * len(self.segments), passes * i
            ) as advance:
                made.append(self._segment(i, advance))
        return made

    def _step(self, i: int) -> str:
        return f"{self.name}-{i:04d}" if self.segments.blocks else f"{self.name}-whole"

    def _spool(self, i: int) -> Spool:
        return Spool(self.evidence.journal.scratch(f"{self._step(i)}-activations"))

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
        """Bring back what the segment after `last` is fed with: from the spool, or where that is damaged, by running
        what was coded before. The network's first part runs in any case, for the blocks' other arguments."""
        tensors = self._tensors(0)
        self.calls = [self._head(tensors, j)[1] for j in range(len(self.batches))]
        if not self._spool(last).intact(len(self.batches)):
            for i in range(last + 1):
                self._feed(i, self._tensors(i))
                if i > 0:
                    self._spool(i - 1).discard()

    def _feed(self, i: int, tensors: Mapping[str, torch.Tensor], advance: Callable[[int], None] | None = None) -> None:
        """Run segment `i` and spool what comes out, for the next one."""
        spool = self._spool(i)
        spool.clear()
        for j in range(len(self.batches)):
            spool.append(self._run(i, tensors, j))
            if advance is not None:
                advance(1)
        spool.seal()

    def _tensors(self, i: int, codes: Mapping[str, Code] | None = None) -> dict[str, torch.Tensor]:
        names, evidence = self.segments.tensor_names(i), self.evidence
        held = self.codes if codes is None else codes
        return decoded_by_name(held, self.keys, names, evidence.device, evidence.torch_dtype)

    def _head(self, tensors: Mapping[str, torch.Tensor], j: int) -> tuple[torch.Tensor, list[Call]]:
        return self.segments.head(tensors, to_device(self.inputs[j], self.evidence.device))

    def _run(self, i: int, tensors: Mapping[str, torch.Tensor], j: int) -> Any:
        """Segment i on micro-batch j: the running value after it."""
        inputs = to_device(self.inputs[j], self.evidence.device)
        if not self.segments.blocks:
            return self.segments.whole(tensors, inputs)
        if i == 0:
            value, calls = self.segments.head(tensors, inputs)
            if len(self.calls) <= j:
                self.calls.append(calls)
            else:
                self.calls[j] = calls
            return value
        value = self._spool(i - 1).load(j, self.evidence.device)
        if i == len(self.segments) - 1:
            return self.segments.tail(tensors, inputs, value, check=j == 0)
        return self.segments.block(i, tensors, value, self.calls[j][i - 1])

    def _segment(self, i: int, advance: Callable[[int], None]) -> Visited:
        """Gather, visit, run what was coded, note it down."""
        gathered = self._gather(i, advance)
        heap.release()
        visited = self.visit(_sites(self.model, self.segments, i, gathered, self.codes, self.needs))
        del gathered
        heap.release()
        codes = ChainMap(visited.codes, self.codes)  # type: ignore[arg-type]
        if i < len(self.segments) - 1:
            self._feed(i, self._tensors(i, codes), advance)
        else:
            advance(len(self.batches))
        visited = self.evidence.journal.save(self._step(i), visited)
        self._adopt(visited)
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
        if not uses or SecondMoment() not in self.needs:
            advance(len(self.batches))
            return gathered
        tensors = self._tensors(i)
        gatherer = MomentGatherer(module, uses)
        try:
            for j in range(len(self.batches)):
                self._run(i, tensors, j)
                gatherer.next_batch()
                advance(1)
        finally:
            moments = gatherer.close()
        return gathered | moments
