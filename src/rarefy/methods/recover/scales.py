"""Distillation of what codes leave free: scales, norms and biases move, integers and supports stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.errors import UsageError
from rarefy.evidence import Evidence, Visited
from rarefy.evidence.laws import output_law
from rarefy.families import family_of
from rarefy.method import Tuner, setting
from rarefy.model import Model

if TYPE_CHECKING:
    import torch

    from rarefy.codes import Code
    from rarefy.families import Law
    from rarefy.training import Training
    from rarefy.training.free import Leaf

    Free = Mapping[str, Mapping[str, Leaf]]

SHARE = 8
"""A micro-batch is that part of a walk's: 512 tokens, or 32 examples."""

HELD_OUT = 8
"""One micro-batch of so many, and at least one, is not trained on: it decides whether the training paid."""


@dataclass(frozen=True)
class Scales(Tuner):
    """Minimizes KL(original || compressed) over the row and column scales, group scales, centroids, norms and biases.

    Hinton, Vinyals and Dean 2015, at temperature 1. A scale moves by its logarithm and is rounded as it is stored
    while it trains. The network is as it was where calibration data that were held out show no gain.
    """

    steps: int = setting(20, "steps of AdamW", low=1)
    batch: int = setting(4, "micro-batches a step, each of 512 tokens or 32 examples", low=1)
    rate: float = setting(0.003, "learning rate at its highest, of the logarithm of a scale", low=0, high=1)

    def tune(self, model: Model, evidence: Evidence, name: str, *, seed: int) -> Visited:
        return self._recovered(model, evidence, name, seed) if model.history else _nothing_lost(model)

    def memory(self, model: Model, evidence: Evidence) -> int:
        from rarefy.training.footprint import footprint

        return footprint(model, evidence.micro_batches(SHARE)[0], evidence.torch_dtype, evidence.device)

    def _recovered(self, model: Model, evidence: Evidence, name: str, seed: int) -> Visited:
        import torch

        from rarefy.training import divergence, train
        from rarefy.training.outcome import within
        from rarefy.training.student import Student
        from rarefy.training.teacher import Teacher

        teacher = Teacher(model.original(), evidence, f"{name}-original", SHARE)
        student = Student(model, evidence.device, evidence.torch_dtype)
        family = family_of(student.module)
        law: Law = family.law(student.module) if family else "softmax"
        read, distance = output_law(law).read, divergence(law)
        kept_back = _held_out(len(teacher.batches))
        trained = [j for j in range(len(teacher.batches)) if j not in kept_back]

        def loss(j: int) -> torch.Tensor:
            return distance(read(teacher(j)), read(student(teacher.batches[j])))

        kind = torch.device(evidence.device).type

        def measured() -> float:
            with torch.no_grad(), torch.autocast(kind, torch.bfloat16, evidence.dtype == "bfloat16"):
                return float(np.mean([float(loss(j)) for j in kept_back]))

        before = measured()
        train(
            student.leaves(),
            lambda k: loss(trained[k]),
            len(trained),
            self._training(evidence),
            seed=seed,
            checkpoint=evidence.journal.scratch(name) / "checkpoint",
            progress=evidence.progress,
            what="recovering scales",
        )
        codes = within(model, student.codes())
        student.adopt(codes)
        after = measured()
        teacher.close()
        return _noted(model, student.free, codes, before, after)

    def _training(self, evidence: Evidence) -> Training:
        from rarefy.training import Training

        mixed = evidence.dtype == "bfloat16"
        return Training(self.steps, self.batch, self.rate, mixed=mixed)


def _held_out(batches: int) -> list[int]:
    """Micro-batches that are not trained on, evenly over all. Raises UsageError when there is only one."""
    if batches < 2:
        raise UsageError(
            "recover.scales needs more calibration data",
            "it trains on some and checks on others, and there is one micro-batch of 512 tokens or 32 examples",
            "give more with --data or --blocks",
        )
    return list(range(0, batches, HELD_OUT))


def _noted(model: Model, free: Free, codes: Mapping[str, Code], before: float, after: float) -> Visited:
    """The codes where they pay, and what is said of them."""
    from rarefy.training.outcome import outcome

    kept = after < before
    what = "kept" if kept else "no gain, so everything stays as it was"
    said = f"{before:.4g} to {after:.4g} nats on held-out calibration data: {what}"
    return outcome(model, free, codes if kept else {}, said)


def _nothing_lost(model: Model) -> Visited:
    """What is made of a network that is the original."""
    from rarefy.training.free import leaves_of
    from rarefy.training.outcome import outcome

    free = {key: leaves_of(code, "cpu") for key, code in model.codes.items() if not model.is_buffer(key)}
    return outcome(model, free, {}, "no step before it lost anything, so everything stays as it was")
