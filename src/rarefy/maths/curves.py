"""Rate curves: bits against the logarithm of a step, from a few measured points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

if TYPE_CHECKING:
    from collections.abc import Sequence


class Curve:
    """A falling curve through points; to the left of them straight on, to the right level."""

    def __init__(self, steps: Sequence[float], bits: Sequence[float]) -> None:
        """steps: positive, in any order. bits: at those."""
        order = np.argsort(steps)
        self._x = np.log2(np.asarray(steps, np.float64)[order])
        self._y = np.minimum.accumulate(np.asarray(bits, np.float64)[order])
        self._inner = PchipInterpolator(self._x, self._y)
        self.widest = float(self._x[-1])
        self._slope = float((self._y[1] - self._y[0]) / (self._x[1] - self._x[0]))

    def __call__(self, step: float) -> float:
        """Bits at a step."""
        x = float(np.log2(step))
        below = min(x - float(self._x[0]), 0.0)
        return self._slope * below + float(self._inner(min(x - below, self.widest)))


def root(curves: Sequence[Curve], bits: float) -> float:
    """The one step at which curves together reach `bits`: the widest measured one where none is so few.

    Raises ValueError where no step is so fine.
    """
    low, high = -60.0, max(curve.widest for curve in curves)

    def excess(x: float) -> float:
        return sum(curve(2.0**x) for curve in curves) - bits

    if excess(low) < 0:
        raise ValueError(f"no step reaches {bits:.4g} bits")
    return float(np.exp2(high if excess(high) >= 0 else brentq(excess, low, high, xtol=1e-6)))
