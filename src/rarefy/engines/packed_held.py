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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code

WIDTH: Final = 64
"""Columns of a block; rows are filled up to it with what meets zeros."""

BEYOND: Final = 0.05
"""Share of integers beyond 4 bits, of 32 bits each, up to which 4 bits beat 8 in time as well as in memory."""

ROWS: Final = 16
"""Rows that have their entries together."""

_MOST: Final = 127
_COLUMNS: Final = 1 << 16


@dataclass(frozen=True)
class Held:
    """A matrix (out, in) as `native/products.hpp` has it, and the error of `Levels`."""

    bits: int
    group: int
    digits: int
    arrays: dict[str, NDArray[Any] | None]
    error: float


def held(code: Code) -> Held:
    """The code of a matrix: at 4 bits where it fits, else at 8."""
    found = None
    if isinstance(code, Grid):
        found = _grid(code)
    elif isinstance(code, Separable):
        found = _separable(code)
    return found or _bytes(code)


def _grid(code: Grid) -> Held | None:
    """A grid of at most 4 bits: its integers, a scale and an offset a group, rounded to bfloat16."""
    out, columns = code.q.shape
    within = columns + -columns % WIDTH if code.groups == 1 else code.group
    if code.bits_per_symbol > 4 or within % 32:
        return None
    scale, zero = (
        np.broadcast_to(part, (out, code.groups)).astype(np.float32)
        for part in (code.scale.decode(), code.zero_points())
    )
    rounded = bfloat16(scale)
    offset = bfloat16((8 - zero) * rounded)
    pairs = np.stack([rounded, offset], 2)
    missing = -(-(columns + -columns % WIDTH) // within) - code.groups
    pairs = np.pad(pairs, ((0, 0), (0, missing), (0, 0)))
    spread = np.repeat(pairs, within, 1)[:, :columns]
    made = (code.q - np.float32(8)) * spread[..., 0] + spread[..., 1]
    w = code.decode().reshape(out, columns)
    arrays: dict[str, Any] = {"packed": nibbles(code.q), "table": table(np.arange(-8, 8, dtype=np.float32))}
    arrays["scales"] = (pairs.view(np.uint32) >> 16).astype(np.uint16)
    return Held(4, within, columns, arrays, relative(made - w, w))


def _separable(code: Separable) -> Held | None:
    """Integers on a grid of separable step, as they are."""
    q = code.q
    near = (q >= -8) & (q <= 7)
    if np.ceil(np.abs(q[~near]) / _MOST).sum() > BEYOND * q.size or q.shape[1] > _COLUMNS:
        return None
    first, far = _entries(q, ~near)
    arrays: dict[str, Any] = {
        "packed": nibbles(np.where(near, q + 8, 8).astype(np.uint8)),
        "table": table(_points(code)),
        "steps": powers(code.rows),
        "columns": powers(code.columns),
        "first": first,
        "far": far,
    }
    return Held(4, 0, q.shape[1], arrays, 0.0)


def _entries(q: NDArray[np.int32], far: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """`first` and `far` of `native/products.hpp`: each of the integers as a sum of as few of int8 as there may be."""
    rows, columns = np.nonzero(far)
    values = q[rows, columns]
    parts = -(-np.abs(values) // _MOST)
    rest = values - np.sign(values) * _MOST * (parts - 1)
    again = np.repeat(np.arange(len(values)), parts - 1)
    rows, columns = np.concatenate([rows, rows[again]]), np.concatenate([columns, columns[again]])
    values = np.concatenate([rest, np.sign(values[again]) * _MOST])
    order = np.lexsort((columns, rows // ROWS))
    entries = columns << 16 | rows % ROWS << 8 | values & 255
    counts = np.bincount(rows // ROWS, minlength=-(-len(q) // ROWS))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32), entries[order].astype(np.uint32)


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
        "packed": np.pad(found.q, ((0, 0), (0, -found.q.shape[1] % WIDTH))).view(np.uint8),
        "steps": np.ascontiguousarray(found.scale[:, 0]),
        "index": None if found.index is None else found.index.astype(np.uint32),
        "columns": found.columns,
    }
    return Held(8, 0, found.q.shape[1], arrays, found.error)


def nibbles(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Integers from 0 to 15, (rows, columns), two a byte in the order of `native/products.hpp`: (rows, filled / 2)."""
    blocks = np.pad(q, ((0, 0), (0, -q.shape[1] % WIDTH)), constant_values=8).reshape(len(q), -1, 2, 4, 2, 4)
    low, high = blocks[:, :, 0], blocks[:, :, 1]  # (rows, blocks, eights, halves of them, 4)
    return np.ascontiguousarray((low | high << 4).swapaxes(2, 3).reshape(len(q), -1))


def table(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """16 values in bfloat16: their low bytes, then their high ones."""
    bits = (bfloat16(values).view(np.uint32) >> 16).astype(np.uint16)
    return np.concatenate([bits & 255, bits >> 8]).astype(np.uint8)
