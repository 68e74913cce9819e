"""The survey: one pass backwards over the network as it is, for the curvature of every matrix.

Once forwards, what flows into each segment kept on disk; then the segments in reverse, each run again on that with
gradients, given the gradient with respect to what comes out and handing on the one with respect to what flows in.
Weights need no gradient. A visited segment is in the journal, and a survey begun again goes on there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rarefy import heap
from rarefy.evidence.curvature import UNREACHED, Curvature, CurvatureGatherer, Kronecker
from rarefy.evidence.laws import output_law
from rarefy.evidence.passes import Passes
from rarefy.evidence.sites import Gathered, Visit, Visited
from rarefy.evidence.statistics import Moment, SecondMoment, pooled
from rarefy.families import Law, Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from rarefy.evidence.evidence import Evidence
    from rarefy.evidence.spool import Spool
    from rarefy.families import Place
    from rarefy.model import Model

SHARE = 4
"""Micro-batches are that part of a walk's: all of a segment's activations are held, and gradients beside them."""


def survey(
    model: Model, evidence: Evidence, visit: Visit, name: str, *, seed: int, law: Law | None = None
) -> list[Visited]:
    """Visit every site of `model` with its `Curvature` and `SecondMoment`; what each segment's visit made, the last
    segment first.

    A tied matrix is visited with the first segment that uses it, so after all others. Nothing drifts: what a visit
    codes, the others do not see.

    Args:
        name: tells this survey from other passes in the journal.
        seed: of the probes of the output law. Same seed and threads: same numbers.
        law: of the output; left out, the family's, or softmax where no family knows the network.

    Raises:
        UsageError: there are no data, or no law is found in the output.
    """
    return _Survey(model, Segments(model), evidence, visit, name, seed, law).run()


class _Survey(Passes):
    def __init__(
        self,
        model: Model,
        segments: Segments,
        evidence: Evidence,
        visit: Visit,
        name: str,
        seed: int,
        law: Law | None,
    ) -> None:
        super().__init__(model, segments, evidence, visit, name, SHARE)
        family = segments.family
        self.law = output_law(law or (family.law(segments.module) if family else "softmax"))
        self.seed = seed

    def _run_all(self) -> list[Visited]:
        self.laws = 0
        self.uses: dict[str, Kronecker | str] = {}
        self.moments: dict[str, Moment | str] = {}
        self.places = self.segments.places()
        self.paths = self._paths()
        made = self._resume()
        left = len(self.segments) - len(made)
        if not left:
            return made
        order, spooled = self._order(left)
        total, done = len(self.batches) * (order[0] + len(order)), 0
        for i in () if spooled else range(order[0]):
            with self.evidence.progress.task(f"running {self.segments.names[i]}", total, done) as advance:
                self._feed(i, self._tensors(i), advance)
            done += len(self.batches)
        for i in order:
            with self.evidence.progress.task(f"surveying {self.segments.names[i]}", total, done) as advance:
                self._backwards(i, advance)
            done += len(self.batches)
            if i < left:
                made.append(self._visit(i, made))
        for i in range(len(self.segments)):
            self._discard(i)
        return made

    def _paths(self) -> list[list[str]]:
        """The layers of each segment that use a site's matrix."""
        paths: list[list[str]] = [[] for _ in self.places]
        for places in self.places:
            for path in (path for place in places for path in place.modules):
                paths[self.segments.index_of(path)].append(path)
        return paths

    def _resume(self) -> list[Visited]:
        """What the journal already has."""
        made: list[Visited] = []
        while len(made) < len(self.segments):
            found = self.evidence.journal.load(self._step(len(self.segments) - 1 - len(made)))
            if found is None:
                break
            made.append(found)
        return made

    def _order(self, left: int) -> tuple[list[int], bool]:
        """The segments to go back through when the first `left` are to be visited, and whether what they are fed with
        is on disk: of those visited only the ones that owe a use to an earlier segment's site. All, where it is not."""
        last = len(self.segments) - 1
        order = [i for i in range(last, -1, -1) if i < left or self._owes(i)]
        needed = [self._gradients(i + 1) for i in order if left - 1 <= i < last]
        # What lies there before any was visited may be another network's.
        intact = (
            left <= last
            and all(self._spool(i - 1).intact(len(self.batches)) for i in order if i > 0)
            and all(spool.intact(len(self.batches) + 1) for spool in needed)
        )
        if all(self.processes.gather(intact)):
            self._learn_calls()
            return order, True
        return list(range(last, -1, -1)), False

    def _owes(self, i: int) -> bool:
        """Whether segment i uses the matrix of an earlier one's site."""
        own = {path for place in self.places[i] for path in place.modules}
        return not own.issuperset(self.paths[i])

    def _gradients(self, i: int) -> Spool:
        """Gradients with respect to what flows into segment i, and last the number of laws."""
        return self._spool(i, "gradients")

    def _discard(self, i: int) -> None:
        """Remove what segment i was given from both sides."""
        if i > 0:
            self._spool(i - 1).discard()
        if i < len(self.segments) - 1:
            self._gradients(i + 1).discard()

    def _backwards(self, i: int, advance: Callable[[int], None]) -> None:
        """Gather the uses in segment i, and spool the gradients for the one before."""
        import torch

        tensors = self._tensors(i)
        after, into = self._gradients(i + 1), self._gradients(i)
        if i < len(self.segments) - 1:
            self.laws = int(after.load(len(self.batches), "cpu"))
        if i > 0:
            into.clear()
        gatherer = CurvatureGatherer(self.segments.module, self.paths[i], self.processes)
        try:
            for j in range(len(self.batches)):
                gradient = self._back(i, tensors, j, gatherer)
                gatherer.next_batch()
                if i > 0:
                    into.append(gradient)
                advance(1)
        finally:
            gatherer.remove()
        del tensors
        uses, moments = gatherer.gathered(self.laws)
        self.uses |= uses
        self.moments |= moments
        if i > 0:
            into.append(torch.tensor([self.laws]))
            into.seal()
        heap.release()

    def _back(self, i: int, tensors: Mapping[str, torch.Tensor], j: int, gatherer: CurvatureGatherer) -> torch.Tensor:
        """The gradient with respect to what flows into segment i on micro-batch j; empty where there is none."""
        import torch

        value = self._value(i, j)
        if value is not None and value.is_floating_point():
            value.requires_grad_()
        # Of the last segment that shows once it has run.
        one_each = i == len(self.segments) - 1 or self.laws == sum(len(batch) for batch in self.batches)
        gatherer.examples = len(self.batches[j]) if one_each else 0
        with torch.enable_grad():
            # A copy, since a leaf may not be changed in place.
            out = self._run(i, tensors, j, None if value is None else value.clone())
            if i < len(self.segments) - 1:
                gradient = self._gradients(i + 1).load(j, self.evidence.device)
            else:
                out = self.law.read(out)
                laws = out.numel() // out.shape[-1]
                self.laws += laws
                gatherer.examples *= laws == len(self.batches[j])
                gradient, diagonal = self.law.probe(out, np.random.default_rng((self.seed, self.numbers[j])))
                gatherer.end(out, diagonal)
            if out.requires_grad and len(gradient):
                out.backward(gradient)
        return torch.empty(0) if value is None or value.grad is None else value.grad

    def _visit(self, i: int, made: list[Visited]) -> Visited:
        """Hand over segment i's sites, note down what was made of them."""
        uses = {place.parameter: self._used(place) for place in self.places[i]}
        moments = {place.parameter: self._moment(place, uses[place.parameter]) for place in self.places[i]}
        gathered: Gathered = {Curvature(): uses, SecondMoment(): moments}
        visited = self._visited(i, gathered, made)
        if not self._owes(i):
            self._discard(i)
        heap.release()
        return visited

    def _used(self, place: Place) -> tuple[Kronecker, ...] | str:
        """All uses of a site's matrix, or why they cannot be told. Those that do not move the output cost nothing."""
        found = [self.uses.pop(path) for path in place.modules]
        uses = tuple(use for use in found if isinstance(use, Kronecker))
        reasons = [use for use in found if isinstance(use, str) and use != UNREACHED]
        return reasons[0] if reasons else uses or UNREACHED

    def _moment(self, place: Place, uses: tuple[Kronecker, ...] | str) -> Moment | str:
        """The second moment over the uses that multiply by the matrix."""
        found = [self.moments.pop(path) for path in place.modules]
        moments = [moment for moment in found if isinstance(moment, Moment)]
        if isinstance(uses, str) or not moments:
            return uses if isinstance(uses, str) else str(found[0])
        return pooled(moments)
