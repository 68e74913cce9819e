"""Codes as small integers: which columns need how many digits, and what rounding to them adds.

A matrix is first divided by its column scales, which then scale the input of its layer. What is left of a row has one
step, and its integers are written in balanced digits of base 16 or 256. A column whose integers reach beyond one digit
stands twice or more, once a digit, and its input is read as often: the outlier channel splitting of Zhao et al.,
"Improving Neural Network Quantization without Retraining using Outlier Channel Splitting" (ICML 2019), with a whole
digit in place of a half, so that what is split stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Grid
from rarefy.codes.separable import Separable, powers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code

    Floats = NDArray[np.float32]

GROUPS: Final = (256, 128, 64, 32)
"""Columns with one scale that torch's 4-bit kernels know."""

TOLERATED: Final = 0.03
"""Share of the noise of the code's own rounding that clipping to 4 bits may add."""

WORTH: Final = 1.5
"""4-bit digits for each column up to which they are chosen; beyond, 8 bits take less memory and less time."""

FINER: Final = {16: (1, 1.05, 1.1, 1.2), 256: (1, 2, 3, 4, 8, 16)}
"""Base -> how much finer than the code's own a row's step may be: the code's points lie between integers."""

COARSER: Final = 2
"""How much coarser the step of a row of 8 bits may become before its outermost column is split."""

_SAMPLE = 256
"""Columns on which a row chooses among steps that clip nothing."""

_ROWS = 4096


@dataclass(frozen=True)
class Levels:
    """W (out, in) is the sum over the digits j of column i = index[j] of (q[:, j] - zero) * scale * columns[j].

    q: int8 (out, digits); from 0 to 15 where `bits` is 4, from -128 to 127 where it is 8.
    scale, offset: float32 (out, groups), exact in bfloat16; a weight is (q - 8) * scale + offset with 4 bits, q * scale
        with 8, where there is one group and no offset.
    index: (digits,) column of each digit, or None when they are the columns in their order.
    columns: float32 (digits,), the input's scales with the digit's power in them, or None when all are one.
    error: squared error that packing has added, relative to the energy of the weights.
    """

    bits: int
    group: int
    q: NDArray[Any]
    scale: Floats
    offset: Floats | None
    index: NDArray[np.int64] | None
    columns: Floats | None
    error: float


def levels(code: Code, *, four: bool = True) -> Levels:
    """The code of a matrix (out, in) as 4-bit levels where they hold it, else as 8-bit ones. four: 4 bits may be."""
    if four and isinstance(code, Grid):
        held = _held(code)
        if held is not None:
            return held
    if isinstance(code, Separable):
        return _separable(code, four)
    w = code.decode().reshape(code.shape[0], -1)
    step = np.maximum(np.abs(w).max(1), np.finfo(np.float32).tiny) / np.float32(127)
    return _rounded(w / step[:, None], step, None, 256, np.ones(w.shape[1], np.intp))


def bfloat16(values: NDArray[Any]) -> Floats:
    """Rounded to bfloat16, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.asarray(((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32))


def _held(code: Grid) -> Levels | None:
    """A grid of at most 4 bits as it is, but for scales rounded to bfloat16; None where groups do not fit a kernel."""
    out, columns = code.q.shape
    within = columns if code.groups == 1 else code.group
    group = next((g for g in GROUPS if within % g == 0 and columns % g == 0), None)
    if code.bits_per_symbol > 4 or group is None:
        return None
    each = np.arange(0, columns, group) // within
    scale, zero = (
        np.broadcast_to(part, (out, code.groups))[:, each].astype(np.float32)
        for part in (code.scale.decode(), code.zero_points())
    )
    rounded = bfloat16(scale)
    offset = bfloat16((8 - zero) * rounded)
    made = (code.q.reshape(out, -1, group) - np.float32(8)) * rounded[:, :, None] + offset[:, :, None]
    w = code.decode().reshape(made.shape)
    return Levels(4, group, code.q.astype(np.int8), rounded, offset, None, None, relative(made - w, w))


def _separable(code: Separable, four: bool) -> Levels:
    rows, columns, v = powers(code.rows), powers(code.columns), code.levels()
    if four:
        digits = _digits(v, rows, 16)
        if digits.sum() <= WORTH * v.shape[1]:
            return _rounded(v, rows, columns, 16, digits)
    return _rounded(v, rows, columns, 256, _digits(v, rows, 256))


def _digits(v: Floats, rows: Floats, base: int) -> NDArray[np.intp]:
    """Digits for each column of `v`, whose rows weigh `rows` squared."""
    reach = base / 2 - 0.5
    if base == 256:
        top = np.abs(v).max(0) / COARSER
        return np.asarray(1 + (top > reach) + (top > base * reach), np.intp)
    digits = np.ones(v.shape[1], np.intp)
    while True:
        beyond = np.square(np.maximum(np.abs(v) - reach, 0))
        beyond[:, digits < digits.max()] = 0  # tolerated in an earlier round
        further = _further(beyond, np.square(rows, dtype=np.float64))
        if not further.any():
            return digits
        digits[further] += 1
        reach = base * (reach + 0.5) - 0.5


def _further(beyond: Floats, energy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The columns that need one more digit, from the squares that clipping loses, in steps.

    Rounding has made a noise of 1/12 of a squared step a weight. Clipping may at most double it in any row, and add
    the share TOLERATED to it overall.
    """
    own = beyond.shape[1] / 12
    worst = beyond[beyond.sum(1) > own]
    order = np.argsort(worst, 1)
    spare = np.cumsum(np.take_along_axis(worst, order, 1), 1) > own
    further = np.zeros(beyond.shape[1], np.bool_)
    further[order[spare]] = True
    lost = np.where(further, 0, energy @ beyond)
    order = np.argsort(lost)
    further[order[np.cumsum(lost[order]) > TOLERATED * energy.sum() * own]] = True
    return further


def _rounded(v: Floats, rows: Floats, columns: Floats | None, base: int, digits: NDArray[np.intp]) -> Levels:
    """Rows of `v`, in steps of `rows`, rounded to integers of so many digits of `base` a column.

    Each row takes whichever of a few steps comes nearest, rounded to bfloat16.
    """
    low, high = (np.asarray(bound, np.float32) for bound in _range(digits, base))
    n, scale = np.empty(v.shape, np.int32), np.empty(len(v), np.float32)
    lost = energy = 0.0
    for start in range(0, len(v), _ROWS):
        part = slice(start, start + _ROWS)
        w = v[part] * rows[part, None]
        s = _step(v[part], rows[part], base, digits, low, high)[:, None]
        rounded = np.clip(np.rint(w / s), low, high)
        lost += np.square(rounded * s - w).sum(dtype=np.float64)
        energy += np.square(w).sum(dtype=np.float64)
        n[part], scale[part] = rounded, s[:, 0]
    return _laid(n, scale, columns, base, digits, lost / max(energy, np.finfo(np.float64).tiny))


def _step(v: Floats, rows: Floats, base: int, digits: NDArray[np.intp], low: Floats, high: Floats) -> Floats:
    """The step of each row, exact in bfloat16, that rounds it best; with 8 bits one that clips nothing."""
    needed = np.zeros(len(v), np.float32)
    if base == 256:
        needed = np.abs(np.where(digits == digits.min(), v, 0)).max(1) / np.float32(high.min())
        every = slice(None, None, -(-v.shape[1] // _SAMPLE))
        v, low, high = v[:, every], low[every], high[every]
    least, best = np.full(len(v), np.inf), np.maximum(needed, 1)
    for finer in FINER[base]:
        step = np.float32(1 / finer)
        error = np.square(np.clip(np.rint(v / step), low, high) * step - v).sum(1, dtype=np.float64)
        better = (error < least) & (step >= needed)
        least[better], best[better] = error[better], step
    s = bfloat16(best * rows)
    return np.where(s > 0, s, np.float32(1))


def _range(digits: NDArray[np.intp], base: int) -> tuple[Any, Any]:
    """The least and the largest integer that so many balanced digits write."""
    ones = (float(base) ** digits - 1) / (base - 1)
    return -(base // 2) * ones, (base // 2 - 1) * ones


def _laid(
    n: NDArray[np.int32],
    scale: Floats,
    columns: Floats | None,
    base: int,
    digits: NDArray[np.intp],
    error: float,
) -> Levels:
    """The digits of integers beside each other: all lowest ones, then the second ones of columns that have them."""
    bits, half = (4, 8) if base == 16 else (8, 128)
    parts, index, powers_ = [], [], []
    rest = n
    most = int(digits.max())
    for place in range(most):
        at = np.flatnonzero(digits > place)
        digit = rest[:, at] if len(at) < len(digits) else rest
        if place + 1 < most:
            digit = (digit + half) % base - half
            last = digits[at] == place + 1
            digit[:, last] = rest[:, at[last]]
            rest = rest.copy()
            rest[:, at] = (rest[:, at] - digit) // base
        parts.append(digit.astype(np.int8))
        index.append(at)
        powers_.append(np.full(len(at), float(base) ** place, np.float32))
    q = np.ascontiguousarray(np.concatenate(parts, 1))  # parts may be laid column by column
    order, power = np.concatenate(index), np.concatenate(powers_)
    wide = q.shape[1]
    group = min(GROUPS, key=lambda g: -(-wide // g) * (g + 8)) if bits == 4 else 1
    extra = -wide % group
    q = np.pad(q, ((0, 0), (0, extra))) + np.int8(8 if bits == 4 else 0)
    order, power = np.pad(order, (0, extra)), np.pad(power, (0, extra))
    scales = np.repeat(scale[:, None], q.shape[1] // group if bits == 4 else 1, 1)
    offset = np.zeros_like(scales) if bits == 4 else None
    straight = len(order) == n.shape[1]
    by = None if columns is None and straight else power if columns is None else power * columns[order]
    return Levels(bits, group, q, scales, offset, None if straight else order, by, error)


def relative(difference: Floats, w: Floats) -> float:
    """The energy of a difference as a share of that of `w`."""
    energy = float(np.square(w, dtype=np.float64).sum())
    return float(np.square(difference, dtype=np.float64).sum()) / max(energy, np.finfo(np.float64).tiny)
