"""Uniform grids fitted to the range of a group of weights.

Notation of Jacob et al. 2018 ("Quantization and training of neural networks for efficient integer-arithmetic-only
inference", eq. 1): w = s (q - z), 0 <= q < 2^b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes.dtypes import dtype_of, from_float32, to_float32
from rarefy.errors import RarefyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def fit(low: Floats, high: Floats, bits: int, *, symmetric: bool, scale_dtype: str) -> tuple[Floats, Floats]:
    """Scale and zero point whose grid spans [low, high] and holds zero.

    low, high: float32, any one shape: the range of each group.
    Returns (s, z), float32, that shape; s is rounded to `scale_dtype`, as it will be stored, before it is used; z is
    an integer in [0, 2^b - 1]. A group of zeros gets s = 1. Raises RarefyError when a scale overflows.
    """
    none = np.float32(0)
    low, high = np.minimum(low, none), np.maximum(high, none)
    levels = np.float32((1 << bits) - 1)
    with np.errstate(over="ignore"):
        span = np.asarray(2 * np.maximum(-low, high) if symmetric else high - low, np.float32)
    kind = dtype_of(scale_dtype)
    s = to_float32(from_float32(span / levels, kind), kind)
    if not np.isfinite(s).all():
        raise RarefyError(
            f"weights up to {max(high.max(), -low.min()):.3g} are too large for scales in {scale_dtype}",
            remedy="store the scales as F32, or exclude the tensor",
        )
    s = np.where(s > 0, s, np.float32(1))
    if symmetric:
        return s, np.full_like(s, 1 << (bits - 1))
    return s, np.clip(np.rint(-low / s), 0, levels)


def to_grid(w: Floats, s: Floats, z: Floats, bits: int) -> Floats:
    """q: the nearest level of each weight, float32 integers."""
    q: Floats = w / s
    np.rint(q, out=q)
    q += z
    np.maximum(q, np.float32(0), out=q)
    np.minimum(q, np.float32((1 << bits) - 1), out=q)
    return q


def group_ranges(w: Floats, group: int) -> tuple[Floats, Floats]:
    """Least and greatest weight of each group of `group` columns: two arrays (out, groups); the last may be short."""
    starts = np.arange(0, max(w.shape[1], 1), group)
    if w.shape[1] == 0:
        empty = np.zeros((w.shape[0], 1), np.float32)
        return empty, empty
    return np.minimum.reduceat(w, starts, axis=1), np.maximum.reduceat(w, starts, axis=1)
