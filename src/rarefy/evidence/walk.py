"""The walk: segment after segment, each fed with what the already coded ones produce.

Resident at any time: one segment's weights, one micro-batch of activations, and the statistics of that segment. The
activations between segments are on disk. A finished segment is in the journal, and a walk begun again goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rarefy.evidence.sites import Site
from rarefy.evidence.spool import Spool
from rarefy.evidence.statistics import Moment, MomentGatherer, SecondMoment, Statistic, moment_obstacle
from rarefy.families import Place, Segments
from rarefy.families.segments import Call, model_inputs, to_device
from rarefy.model import Model, decoded

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


def _at_rest(
    model: Model, segments: Segments, i: int, evidence: Evidence, visit: Visit, name: str
) -> Visited:
    """One segment of a walk that needs no data."""
    step = f"{name}-{i:04d}"
    with evidence.progress.task(f"coding {segments.names[i]}", len(segments), i) as advance:
        made = evidence.journal.load(step)
        if made is None:
            made = visit(_sites(model, segments, i, {}))
            evidence.journal.save(step, made)
        advance(1)
    return made


def _sites(
    model: Model,
    segments: Segments,
    i: int,
    moments: Mapping[str, Moment],
    codes: Mapping[str, Code] | None = None,
    needs: Iterable[Statistic] = (),
) -> list[Site]:
    keys = model.keys
    label = segments.names[i]
    made = []
    for place in segments.places()[i]:
        statistics, obstacles = {}, {}
        for need in needs:
            found = next((moments[path] for path in place.modules if path in moments), None)
            if found is not None:
                statistics[need] = found
            else:
                layer = segments.module.get_submodule(place.modules[0])
                obstacles[need] = moment_obstacle(layer) or "calibration never reached it"
        key = keys[place.parameter]
        made.append(Site(key, place.kind, label, (codes or model.codes)[key], statistics, obstacles))
    return made


class _Walk:
    """One walk over data."""

    def __init__(
        self, model: Model, segments: Segments, evidence: Evidence, needs: frozenset[Statistic], visit: Visit, name: str
    ) -> None:
        self.model, self.segments, self.evidence = model, segments, evidence
        self.needs, self.visit, self.name = needs, visit, name
        self.codes = dict(model.codes)
        self.keys = model.keys
        self.calls: list[list[Call]] = []
        self.batches = evidence.micro_batches()
        self.inputs = [model_inputs(segments.module, batch) for batch in self.batches]
        if segments.blocks:
            segments.probe(self._tensors(len(segments) - 1), to_device(self.inputs[0], evidence.device))
        if segments.reason:
            evidence.progress.note(f"one segment, held in memory whole: {segments.reason}")

    def run(self) -> list[Visited]:
        import torch

        # Each segment runs every batch twice: as it was, and as it was coded.
        passes = 2 * len(self.batches)
        with torch.no_grad():
            made = self._resume()
            for i in range(len(made), len(self.segments)):
                with self.evidence.progress.task(
                    f"coding {self.segments.names[i]}", passes * len(self.segments), passes * i
                ) as advance:
                    made.append(self._segment(i, advance))
        return made

    def _spool(self, i: int) -> Spool:
        return Spool(self.evidence.journal.scratch(f"{self.name}-activations-{i:04d}"))

    def _resume(self) -> list[Visited]:
        """What the journal already has; the network's first part is run again for the blocks' other arguments."""
        made: list[Visited] = []
        while len(made) < len(self.segments):
            found = self.evidence.journal.load(f"{self.name}-{len(made):04d}")
            if found is None:
                break
            made.append(found)
        last = len(made) - 1
        if 0 <= last < len(self.segments) - 1 and not self._spool(last).intact(len(self.batches)):
            return []
        for visited in made:
            self.codes.update(visited.codes)
        if made and last < len(self.segments) - 1:
            tensors = self._tensors(0)
            self.calls = [self._head(tensors, j)[1] for j in range(len(self.batches))]
        return made

    def _tensors(self, i: int) -> dict[str, torch.Tensor]:
        names = [name for name in self.segments.tensor_names(i) if name in self.keys]
        cache: dict[str, torch.Tensor] = {}
        for name in names:
            key = self.keys[name]
            if key not in cache:
                cache[key] = decoded(self.codes[key], self.evidence.device, self.evidence.torch_dtype)
        return {name: cache[self.keys[name]] for name in names}

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
        value = self._spool(i - 1).load(j, self.evidence.torch_dtype, self.evidence.device)
        if i == len(self.segments) - 1:
            return self.segments.tail(tensors, inputs, value)
        return self.segments.block(i, tensors, value, self.calls[j][i - 1])

    def _segment(self, i: int, advance: Callable[[int], None]) -> Visited:
        """Gather, visit, run what was coded, note it down."""
        tensors = self._tensors(i)
        moments = self._gather(i, tensors, advance)
        visited = self.visit(_sites(self.model, self.segments, i, moments, self.codes, self.needs))
        self.codes.update(visited.codes)
        if i < len(self.segments) - 1:
            if visited.codes:
                tensors = self._tensors(i)
            spool = self._spool(i)
            spool.clear()
            for j in range(len(self.batches)):
                spool.append(self._run(i, tensors, j))
                advance(1)
            spool.seal()
        else:
            advance(len(self.batches))
        self.evidence.journal.save(f"{self.name}-{i:04d}", visited)
        if i > 0:
            self._spool(i - 1).discard()
        return visited

    def _gather(self, i: int, tensors: Mapping[str, torch.Tensor], advance: Callable[[int], None]) -> dict[str, Moment]:
        """Second moments of the segment's sites, summed per micro-batch in batch order."""
        paths = self._reachable(self.segments.places()[i])
        if not paths or SecondMoment() not in self.needs:
            advance(len(self.batches))
            return {}
        gatherer = MomentGatherer(self.segments.module, paths)
        for j in range(len(self.batches)):
            self._run(i, tensors, j)
            gatherer.next_batch()
            advance(1)
        return gatherer.close()

    def _reachable(self, places: list[Place]) -> list[str]:
        module = self.segments.module
        return [path for place in places for path in place.modules if not moment_obstacle(module.get_submodule(path))]


