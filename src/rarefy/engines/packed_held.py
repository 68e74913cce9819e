"""Codes as the arrays that the processor's kernels read (`native/products.hpp`).

Four bits number a table of 16 values, so that reconstruction points stay what they are; the few integers beyond stand
beside them, as the sparse part of Dettmers et al., "SpQR: A Sparse-Quantized Representation for Near-Lossless LLM
Weight Compression" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Grid
from rarefy.codes.separable import Separable, powers
from rarefy.engines.packed_levels import bfloat16, levels, relative
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code

WIDTH: Final = 64
"""Columns of a block; rows are filled up to it with what meets zeros."""

BEYOND: Final = 0.05
"""Share of integers beyond 4 bits, of 32 bits each, up to which 4 bits beat 8 in time as well as in memory."""

ROWS: Final = 16
"""Rows that have their entries together."""

_COLUMNS: Final = 1 << 16


@dataclass(frozen=True)
class Held:
    """A matrix (out, in) as `native/products.hpp` has it, and the error of `Levels`."""

    bits: int
    group: int
    digits: int
    arrays: dict[str, NDArray[Any] | None]
    error: float
    binary16: bool = False


def held(code: Code) -> Held:
    """The code of a matrix: at 4 bits where it fits, else at 8."""
    found = None
    if isinstance(code, Grid):
        found = _grid(code) or _rows(code)
    elif isinstance(code, Separable):
        found = _separable(code)
    return found or _bytes(code)


def _grid(code: Grid) -> Held | None:
    """A grid of at most 4 bits: its integers, and a scale and a shift a group."""
    out, columns = code.q.shape
    width = columns + -columns % WIDTH
    group = width if code.groups == 1 else code.group
    if code.bits_per_symbol > 4 or group % 32:
        return None
    missing = ((0, 0), (0, -(-width // group) - code.groups))
    scale, zero = (
        np.pad(np.broadcast_to(each, (out, code.groups)), missing)
        for each in (code.scale.decode(), code.zero_points().astype(np.int8))
    )
    scales, binary16, kept = _scales(scale)
    arrays: dict[str, Any] = {"packed": nibbles(code.q), "table": table(np.arange(-8, 8, dtype=np.float32))}
    arrays |= {"scales": scales, "shifts": 8 - zero if (zero != 8).any() else None}
    error = 0.0
    if kept is not scale:
        n = code.q.astype(np.float32) - np.repeat(zero, group, 1)[:, :columns]
        moved, whole = (n * np.repeat(each, group, 1)[:, :columns] for each in (kept - scale, scale))
        error = relative(moved, whole)
    return Held(4, group, columns, arrays, error, binary16)


def _rows(code: Grid) -> Held | None:
    """A grid with a scale a row whose integers about its zero points have 8 bits."""
    if code.groups > 1:
        return None
    n = code.q.astype(np.int16) - code.zero_points()
    if n.min(initial=0) < -128 or n.max(initial=0) > 127:
        return None
    steps = np.broadcast_to(code.scale.decode()[:, 0], len(n)).astype(np.float32)
    return Held(8, 0, n.shape[1], {"packed": _filled(n.astype(np.int8)), "steps": steps}, 0.0)


def _scales(scale: NDArray[np.float32]) -> tuple[NDArray[np.uint16], bool, NDArray[np.float32]]:
    """Scales in 16 bits, whether these are binary16, and what they are then: bfloat16 unless binary16 is exact."""
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    if np.array_equal(half.astype(np.float32), scale):
        return half.view(np.uint16), True, scale
    short = bfloat16(scale)
    kept = scale if np.array_equal(short, scale) else short
    return (short.view(np.uint32) >> 16).astype(np.uint16), False, kept


def _separable(code: Separable) -> Held | None:
    """Integers on a grid of separable step, as they are."""
    near, far = code.near()
    out, columns = near.shape
    if columns > _COLUMNS:
        return None
    packed = np.empty((out, (columns + -columns % WIDTH) // 2), np.uint8)
    first = np.empty(-(-out // ROWS) + 1, np.uint32)
    entries = _kernels.lay_out(np.ascontiguousarray(near), far, int(BEYOND * near.size), packed, first)
    if entries is None:
        return None
    arrays: dict[str, Any] = {
        "packed": packed,
        "table": table(_points(code)),
        "steps": powers(code.rows),
        "columns": powers(code.columns),
        "first": first,
        "far": np.frombuffer(entries, np.uint32).copy(),
    }
    return Held(4, 0, columns, arrays, 0.0)


def _points(code: Separable) -> NDArray[np.float32]:
    """What the integers from -8 to 7 stand for."""
    each = Separable(
        np.arange(-8, 8, dtype=np.int32)[None], code.rows[:1], code.columns[:1], code.points.decode(), shape=(1, 16)
    )
    points: NDArray[np.float32] = each.levels()[0]
    return points


def _bytes(code: Code) -> Held:
    """Any code at 8 bits with a step a row, columns that reach too far in two digits."""
    found = levels(code, four=False)
    arrays: dict[str, Any] = {
        "packed": _filled(found.q),
        "steps": np.ascontiguousarray(found.scale[:, 0]),
        "index": None if found.index is None else found.index.astype(np.uint32),
        "columns": found.columns,
    }
    return Held(8, 0, found.q.shape[1], arrays, found.error)


def _filled(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Rows of bytes, with zeros up to whole blocks."""
    return np.pad(q, ((0, 0), (0, -q.shape[1] % WIDTH))).view(np.uint8)


def nibbles(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Integers from 0 to 15, (rows, columns), two a byte in the order of `native/products.hpp`: (rows, filled / 2)."""
    blocks = np.pad(q, ((0, 0), (0, -q.shape[1] % WIDTH)), constant_values=8).reshape(len(q), -1, 2, 4, 2, 4)
    low, high = blocks[:, :, 0], blocks[:, :, 1]  # (rows, blocks, eights, halves of them, 4)
    return np.ascontiguousarray((low | high << 4).swapaxes(2, 3).reshape(len(q), -1))


def table(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """16 values in bfloat16: their low bytes, then their high ones."""
    bits = (bfloat16(values).view(np.uint32) >> 16).astype(np.uint16)
    return np.concatenate([bits & 255, bits >> 8]).astype(np.uint8)
