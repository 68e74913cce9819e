"""Retraining: everything that codes leave free is trained, zeros and shared weights stay so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.method import Trained, Tuner
from rarefy.model import shape_of

if TYPE_CHECKING:
    from rarefy.evidence import Evidence, Visited
    from rarefy.model import Model

ADAM = 5
"""Copies of a free value in float32 beside the network's own: where it started, leaf, gradient, two moments."""


@dataclass(frozen=True)
class Retrain(Tuner, Trained):
    """Trains the weights that a pruning left, the centroids that weights share, scales, norms and biases.

    Han et al. 2015 ("Learning both weights and connections", section 3): weights outside the support stay zero. Han,
    Mao and Dally 2016 ("Deep Compression", equation 3): a centroid's gradient is the sum of those of its weights.
    """

    def memory(self, model: Model, evidence: Evidence) -> int:
        from dataclasses import replace

        from rarefy.training.footprint import footprint

        batch = replace(evidence, batch=self.batch).micro_batches()[0]
        weights = sum(math.prod(shape_of(model.codes, key)) for key in model.codes)
        original = evidence.torch_dtype.itemsize * weights if self.soft and self.augment != "none" else 0
        moving = 4 * ADAM * weights
        return footprint(model, batch, evidence.torch_dtype, evidence.device) + original + moving

    def tune(self, model: Model, evidence: Evidence, name: str, *, seed: int) -> Visited:
        from rarefy.training import train
        from rarefy.training.outcome import outcome, within
        from rarefy.training.student import Student

        student = Student(model, evidence.device, evidence.torch_dtype, whole=True)
        if not model.history and self.soft == 1:
            return outcome(model, student.free, {}, "this is the original, so there is nothing to follow")
        lessons = self.lessons(model, evidence, name, seed=seed)
        losses = train(
            student.leaves(),
            lambda j: lessons.loss(j, student),
            len(lessons),
            self.training(len(lessons), mixed=evidence.dtype == "bfloat16"),
            seed=seed,
            checkpoint=evidence.journal.scratch(name) / "checkpoint",
            progress=evidence.progress,
            what="retraining",
        )
        lessons.close()
        return outcome(model, student.free, within(model, student.codes()), _said(losses, len(lessons)))


def _said(losses: list[float], epoch: int) -> str:
    """How the loss fell, over the first and the last epoch that were trained now."""
    first, last = (float(np.mean(part)) if part else math.nan for part in (losses[:epoch], losses[-epoch:]))
    return f"{first:.4g} to {last:.4g} nats an example, of those it learns from"
