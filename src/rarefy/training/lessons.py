"""Lessons: examples in batches, what their labels are, and what the original network says of them.

Without augmentation the original runs once and its outputs are kept (`Teacher`). Examples that are drawn anew in
every epoch are shown to it as they come, so that original and student see the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rarefy.evidence.laws import output_law
from rarefy.families import family_of
from rarefy.families.values import model_inputs, to_device
from rarefy.training.augment import augmentation
from rarefy.training.losses import Objective
from rarefy.training.teacher import Teacher

if TYPE_CHECKING:
    from torch import nn

    from rarefy.evidence import Evidence
    from rarefy.families import Law
    from rarefy.model import Model

Network = Callable[[torch.Tensor], Any]
"""A batch of inputs, on the CPU, to what the network returns."""


class Lessons:
    """The examples of the evidence, shuffled once by the seed, in batches of one size; the last may be smaller.

    objective: law, and weights of the original's outputs and of labels.
    """

    def __init__(
        self,
        model: Model,
        evidence: Evidence,
        name: str,
        *,
        batch: int,
        seed: int = 0,
        soft: float = 1.0,
        temperature: float = 1.0,
        augment: str = "none",
    ) -> None:
        """model: the compressed one, which knows its original. name: of temporary files.

        Raises UsageError when the model does not know its original and soft is above 0.
        """
        inputs, labels = evidence.array(), evidence.labels
        order = np.random.default_rng((seed, len(inputs))).permutation(len(inputs))
        labels = None if labels is None else labels[order]
        self.evidence = dataclasses.replace(evidence, inputs=inputs[order], labels=labels, batch=batch)
        self.batches = self.evidence.micro_batches()
        self.labels = [None] * len(self.batches) if labels is None else torch.split(torch.from_numpy(labels), batch)
        empty = model.skeleton.empty
        family = family_of(empty)
        law: Law = family.law(empty) if family else "softmax"
        self.objective, self._read = Objective(law, soft, temperature), output_law(law).read
        self._augment = augmentation(augment)
        self._teacher: Teacher | None = None
        self._original: nn.Module | None = None
        if soft > 0 and augment == "none":
            self._teacher = Teacher(model.original(), self.evidence, f"{name}-original", share=1)
        elif soft > 0:
            self._original = model.original().module(evidence.device, evidence.torch_dtype)

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def loss(self, j: int, network: Network) -> torch.Tensor:
        """The mean loss of the network on batch j, nats an example; draws where examples are augmented.

        Raises UsageError when examples are no images that can be augmented, or labels are needed and missing.
        """
        device, labels = self.evidence.device, self.labels[j]
        x = self._augment(self.batches[j])
        # Convolutions run faster so, forwards and back; `contiguous` would leave one channel as it is.
        x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
        z = self._read(network(x))
        return self.objective(z, self._said(j, x), None if labels is None else labels.to(device))

    def close(self) -> None:
        """Remove what is kept on disk."""
        if self._teacher is not None:
            self._teacher.close()

    def _said(self, j: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the original says of batch j, of which x was made."""
        if self._teacher is not None:
            return self._read(self._teacher(j))
        if self._original is None:
            return None
        with torch.no_grad():
            args, kwargs = to_device(model_inputs(self._original, x), self.evidence.device)
            return self._read(self._original(*args, **kwargs))
