"""Rounding to a learned step, and the pull of a penalty that is straight between integers; gradients written out.

In training a small network these take most of the time: autograd would pass a dozen times more over every weight.
"""

from __future__ import annotations

from typing import Any

import torch


def rounded(u: torch.Tensor, step: torch.Tensor, top: int) -> torch.Tensor:
    """w = step * q, q = round(u / step) within -top to top. u: any shape; step: a scalar.

    Gradients: dw/du = 1, straight through; dw/dstep = q - u / step (Esser et al. 2020, "Learned step size
    quantization", equation 3).
    """
    found: torch.Tensor = _Rounded.apply(u, step, top)  # type: ignore[no-untyped-call]
    return found


def pull(u: torch.Tensor, step: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The sum of slope * |u| / step. slope: in u's shape, not negative, without a gradient."""
    found: torch.Tensor = _Pull.apply(u, step, slope)  # type: ignore[no-untyped-call]
    return found


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, step: torch.Tensor, top: int) -> torch.Tensor:
        w = (u / step).round_().clamp_(-top, top).mul_(step)
        ctx.save_for_backward(u, step, w)
        return w

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (g,), (u, step, w) = gradients, ctx.saved_tensors
        return g, (_dot(g, w) - _dot(g, u)) / step, None


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, step: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        signed = slope.copysign(u)
        total = _dot(signed, u) / step
        ctx.save_for_backward(signed, step, total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (g,), (signed, step, total) = gradients, ctx.saved_tensors
        return signed * (g / step), -g * total / step, None


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
