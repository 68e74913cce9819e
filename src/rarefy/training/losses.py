"""Losses: how far an output is from the original's and from the labels, in nats, with gradients.

The forward values are those of `rarefy.measure.divergence`. Softmax laws have their gradient written out: the logits
of a batch are the largest thing in a small language model, and autograd would keep four float32 copies of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from rarefy.errors import UsageError
from rarefy.measure.divergence import cosine_distance, gaussian_kl

if TYPE_CHECKING:
    from rarefy.families import Law

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs of the original and of the compressed network, (..., d), to the mean over laws, in nats; differentiable in
the second."""

_VALUES_AT_ONCE = 1 << 22  # 16 MB of each float32 array


def divergence(law: Law) -> Divergence:
    """The loss of that law: KL of softmax laws, 1 - cosine of embeddings, half the squared error of a regression."""
    kinds: dict[Law, Divergence] = {
        "softmax": softmax_kl,
        "embedding": lambda original, z: cosine_distance(original, z).mean(),
        "gaussian": lambda original, z: gaussian_kl(original, z).mean(),
    }
    return kinds[law]


@dataclass(frozen=True)
class Objective:
    """What a training follows: soft * D + (1 - soft) * H, D against the original's outputs, H against labels.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2: softmax laws are compared
    at temperature T, as KL(softmax(original / T) || softmax(z / T)) T^2, so that gradients keep their size when T
    changes; H is cross-entropy at temperature 1. Other laws have no temperature; a regression's H is half the squared
    error, and embeddings have no labels.

    law: of the outputs. soft: weight of the original's, 0 to 1. temperature: T, positive.
    """

    law: Law
    soft: float = 1.0
    temperature: float = 1.0

    def __call__(
        self, z: torch.Tensor, original: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, nats an example. z, original: outputs (n, d); the original's may be None when soft is 0.
        labels: (n,) int64, or (n, d) targets of a regression; may be None when soft is 1.

        Raises UsageError when what it needs is not there.
        """
        parts = []
        if self.soft > 0:
            if original is None:
                raise UsageError("there is no original to follow", remedy="use soft=0")
            parts.append(self.soft * self._from_original(original, z))
        if self.soft < 1:
            parts.append((1 - self.soft) * self._from_labels(z, labels))
        return torch.stack(parts).sum()

    def _from_original(self, original: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        t = self.temperature
        if self.law != "softmax" or t == 1:
            return divergence(self.law)(original, z)
        return t**2 * softmax_kl(original / t, z / t)

    def _from_labels(self, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        if labels is None or self.law == "embedding":
            why = "embeddings have none" if self.law == "embedding" else "there is no y in the .npz given with --data"
            raise UsageError("training needs labels", why, "follow the original alone: soft=1")
        if self.law == "gaussian":
            return gaussian_kl(labels.float().reshape(z.shape), z).mean()
        if labels.shape != z.shape[:-1] or labels.is_floating_point() or int(labels.max()) >= z.shape[-1]:
            raise UsageError(
                "the labels are not those of the network",
                f"outputs are {tuple(z.shape[1:])} an example, labels {labels.dtype} {tuple(labels.shape[1:])} with "
                f"{float(labels.max()):g} the largest",
                f"number the classes from 0 to {z.shape[-1] - 1}",
            )
        return functional.cross_entropy(z.float().reshape(-1, z.shape[-1]), labels.reshape(-1))


def softmax_kl(original: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Mean KL(softmax(original) || softmax(z)) over the rows of (..., d), float32.

    The gradient with respect to a row of z is (q - p) / rows (Hinton, Vinyals and Dean 2015, equation 2, at
    temperature 1). It is found with the value, a few rows at a time, and kept in the type of z.
    """
    found: torch.Tensor = _SoftmaxKL.apply(z, original)  # type: ignore[no-untyped-call]
    return found


class _SoftmaxKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        rows, wanted = z.reshape(-1, z.shape[-1]), original.reshape(-1, z.shape[-1])
        gradient, total = torch.empty_like(rows), torch.zeros((), dtype=torch.float64, device=z.device)
        at_once = max(1, _VALUES_AT_ONCE // max(1, rows.shape[1]))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            log_p = functional.log_softmax(wanted[part].float(), -1)
            log_q = functional.log_softmax(rows[part].float(), -1)
            p, q = log_p.exp(), log_q.exp()
            # Where p is zero so is the term, even against log q = -inf.
            total += log_p.sub_(log_q).mul_(p).masked_fill_(p == 0, 0.0).sum(dtype=torch.float64)
            gradient[part] = q.sub_(p).div_(len(rows))
        ctx.save_for_backward(gradient.reshape(z.shape))
        return (total / max(1, len(rows))).float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None
