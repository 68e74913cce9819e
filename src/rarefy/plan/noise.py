"""What noise in a network's weights costs: one streamed pass, the network as it is and with noise side by side.

Of noise like the errors that rounding leaves, in size and in shape, this measures what the second-order cost leaves
out: what errors of different rows and layers do together, higher orders, and text that the statistics never saw. The
sign matters too: at few bits most weights round towards zero, which harms less than as much noise of any sign.
"""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING, Any, Final

from rarefy import heap
from rarefy.evidence.laws import output_law
from rarefy.evidence.passes import Passes
from rarefy.evidence.sites import Visited
from rarefy.families import Law, Segments
from rarefy.measure.divergence import cosine_distance, softmax_kl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from rarefy.codes import Code
    from rarefy.evidence import Evidence
    from rarefy.evidence.spool import Spool
    from rarefy.measure import divergence
    from rarefy.model import Model

SHARE: Final = 8
"""Micro-batches are that part of a walk's: both networks' heads are held, and the outputs of both."""

DISTANCES: dict[Law, divergence.Law] = {"softmax": softmax_kl, "embedding": cosine_distance}
"""A regression's is in units of its outputs' variance, and not predicted."""


def law_of(segments: Segments) -> Law:
    """The output law of a network: softmax where no family knows it."""
    return segments.family.law(segments.module) if segments.family else "softmax"


def nats(model: Model, evidence: Evidence, noisy: Mapping[str, Code], name: str) -> float:
    """Mean divergence, nats a law, between `model` and itself with noise, on the data of `evidence`.

    noisy: codes of the tensors with noise in them. name: tells this pass from others.
    """
    segments = Segments(model)
    return float(_Twins(model, segments, evidence, noisy, law_of(segments), name).run()[0].notes["nats"])


class _Twins(Passes):
    """Both networks, a segment at a time. noisy: codes of the second that differ."""

    def __init__(
        self, model: Model, segments: Segments, evidence: Evidence, noisy: Mapping[str, Code], law: Law, name: str
    ) -> None:
        super().__init__(model, segments, evidence, lambda sites, before: Visited({}), name, SHARE)
        self.law, self.distance = output_law(law), DISTANCES[law]
        self.noisy = ChainMap[str, Any](noisy, model.codes)  # type: ignore[arg-type]

    def _run_all(self) -> list[Visited]:
        last, passes, found = len(self.segments) - 1, 2 * len(self.batches), 0.0
        for i in range(last + 1):
            with self.evidence.progress.task(
                f"disturbing {self.segments.names[i]}", passes * (last + 1), passes * i
            ) as advance:
                if i < last:
                    self._feed_both(i, advance)
                else:
                    found = self._compare(i, advance)
            for spool in (self._spool(i - 1), self._twin(i - 1)) if i > 0 else ():
                spool.discard()
            heap.release()
        return [Visited({}, {"nats": found})]

    def _twin(self, i: int) -> Spool:
        """What comes out of segment `i` with noise."""
        return self._spool(i, "noisy")

    def _feed_both(self, i: int, advance: Callable[[int], None]) -> None:
        self._feed(i, self._tensors(i), advance)
        tensors, spool = self._tensors(i, self.noisy), self._twin(i)
        spool.clear()
        for j in range(len(self.batches)):
            spool.append(self._run(i, tensors, j, self._noisy_value(i, j)))
            advance(1)

    def _noisy_value(self, i: int, j: int) -> torch.Tensor | None:
        return self._twin(i - 1).load(j, self.evidence.device) if i > 0 else None

    def _compare(self, last: int, advance: Callable[[int], None]) -> float:
        """The mean over all laws; logits of one micro-batch at a time."""
        import torch

        noisy = self._tensors(last, self.noisy)  # first, since making it takes more than holding it
        clean = self._tensors(last)
        total, laws = 0.0, 0
        for j in range(len(self.batches)):
            ours = self.law.read(self._run(last, clean, j))
            theirs = self.law.read(self._run(last, noisy, j, self._noisy_value(last, j)))
            found = self.distance(ours, theirs)
            total, laws = total + float(found.double().sum()), laws + found.numel()
            advance(2)
        every = self.processes.sum({"nats": torch.tensor(total, dtype=torch.float64), "laws": torch.tensor(laws)})
        return float(every["nats"] / every["laws"])
