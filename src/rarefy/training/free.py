"""What codes leave free, as leaves that one learning rate fits: all are zero at first and count in relative units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from rarefy.codes import Codebook, Dense, Grid, Sparse
from rarefy.codes.separable import OCTAVE, Separable

if TYPE_CHECKING:
    from rarefy.codes import Code

_SCALES = {Separable: ("rows", "columns"), Grid: ("scale",)}
"""Factors of a matrix, positive or not: moved by their logarithm.

A separable grid's points stay: their gradient takes that of the whole matrix, half a step's time again.
"""


class Leaf:
    """One free array. value() = start * exp(leaf) for scales, start + unit * leaf for values.

    start: as stored, float32. octave: of scales that are stored as powers of 2^(1 / octave), 0 for others.
    """

    def __init__(self, start: torch.Tensor, *, scale: bool, octave: int = 0) -> None:
        self.start, self.octave, self.scale = start, octave, scale
        # Values such as biases are measured by their root mean square, zeros aside.
        self.unit = float(start[start != 0].square().mean().sqrt())
        self.leaf = torch.zeros_like(start)

    def value(self) -> torch.Tensor:
        """What stands in the network, rounded as it will be stored where that is coarse; the gradient passes
        straight through the rounding (Bengio, Léonard and Courville 2013)."""
        if not self.scale:
            return self.start + self.unit * self.leaf
        moved = self.leaf
        if self.octave:
            step = math.log(2) / self.octave
            moved = moved + ((moved / step).round() * step - moved).detach()
        return self.start * moved.exp()

    def adopt(self, values: torch.Tensor) -> None:
        """Start anew from these values."""
        self.start = values.to(self.start)
        self.leaf = torch.zeros_like(self.start)


def leaves_of(code: Code, device: str, *, whole: bool = False) -> dict[str, Leaf]:
    """The free values of a code that a short training moves, or with `whole` a long one: whole matrices too."""
    inner = inside(code)
    scales = _SCALES.get(type(inner), ())
    octave = OCTAVE if isinstance(inner, Separable) else 0
    few = isinstance(inner, Codebook) or (isinstance(inner, Dense) and len(code.shape) == 1)
    integers = isinstance(inner, Dense) and not inner.dtype.floating
    free = code.free() if (scales or few or whole) and not integers else {}
    values = () if scales else [part for part, array in free.items() if np.any(array)]
    made = {part: Leaf(_tensor(free[part], device), scale=True, octave=octave) for part in scales}
    return made | {part: Leaf(_tensor(free[part], device), scale=False) for part in values}


def inside(code: Code) -> Code:
    """The code under supports."""
    while isinstance(code, Sparse):
        code = code.inner
    return code


def _tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], device: str) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
