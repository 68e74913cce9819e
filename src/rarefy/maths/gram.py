"""Gram matrices X^T X as they are summed up from parts of X, on any device."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

STRIPS: Final = 3
"""Of rows, each taken from the diagonal on: two thirds of the products."""


def add_gram(total: torch.Tensor, x: torch.Tensor) -> None:
    """total += X^T X for X (n, d), float32 (d, d); below the diagonal only when `mirror` has been called.

    Of bfloat16 inputs the products are exact, and sums are in float32.
    """
    import torch

    rows = x.float()
    with _bfloat16_products() if x.dtype == torch.bfloat16 else contextlib.nullcontext():
        for strip in _strips(len(total)):
            total[strip, strip.start :].addmm_(rows[:, strip].T, rows[:, strip.start :])


def mirror(total: torch.Tensor) -> torch.Tensor:
    """The same matrix, in place, with the strips' part above the diagonal also below it."""
    for strip in _strips(len(total)):
        total[strip.stop :, strip] = total[strip, strip.stop :].T
    return total


def _strips(d: int) -> list[slice]:
    step = max(1, -(-d // STRIPS))
    return [slice(start, min(start + step, d)) for start in range(0, d, step)]


@contextlib.contextmanager
def _bfloat16_products() -> Iterator[None]:
    """float32 matrices that hold bfloat16's numbers are multiplied by its units, where the CPU has some."""
    import torch

    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if matmul is None:
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
