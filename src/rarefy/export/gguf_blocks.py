"""GGUF's plain block types: 32 weights of a row with a scale, some with a least value too, in 16 bits.

A weight is d q + m. Types ending in _0 have no m: their levels lie around 2^(bits - 1), and d may be negative, so that
the weight farthest from zero can have the one level that has no opposite. Layouts are ggml's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Grid
from rarefy.export.nearest import SHRINK, closest, held, within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rarefy.codes import Code

    Floats = NDArray[np.float32]

SIZE: Final = 32
"""Weights of a block."""


@dataclass(frozen=True)
class Block:
    """A block type. least: whether it has an m."""

    name: str
    bits: int
    least: bool


BLOCKS: Final = {
    block.name: block
    for block in (
        Block("Q4_0", 4, False),
        Block("Q4_1", 4, True),
        Block("Q5_0", 5, False),
        Block("Q5_1", 5, True),
        Block("Q8_0", 8, False),
    )
}

EXACT: Final = ("Q4_0", "Q5_0", "Q8_0")
"""Types that can hold a grid without loss, the smallest first: any zero point only moves the levels."""


def exact(code: Code) -> tuple[str, NDArray[np.uint8]] | None:
    """The smallest type that holds a grid's very values, and its blocks; None where there is none."""
    if not isinstance(code, Grid):
        return None
    for name in EXACT:
        grid = held(code, BLOCKS[name].bits, SIZE, symmetric=True, scale="F16")
        if grid is not None and np.array_equal(grid.scale.decode(), _scales(code)):
            return name, _of_grid(BLOCKS[name], grid)
    return None


def blocks_of(code: Code, name: str) -> NDArray[np.uint8]:
    """A matrix in blocks of a type, (out, bytes): a grid's own levels where they fit, else the nearest.

    Its columns are a multiple of 32.
    """
    kind = BLOCKS[name]
    grid = held(code, kind.bits, SIZE, symmetric=not kind.least, scale="F16")
    if grid is not None:
        return _of_grid(kind, grid)
    w = code.decode()
    groups = w.reshape(-1, SIZE)
    q, d, z = closest(groups, lambda part: _candidates(kind, part), within(kind.bits))
    return _packed(kind, q, d, -z * d, len(w))


def _scales(code: Grid) -> Floats:
    """A grid's scale for each block, (out, blocks)."""
    blocks = code.q.shape[1] // SIZE
    whole: Floats = np.broadcast_to(code.scale.decode(), (len(code.q), code.groups))
    return whole[:, np.arange(blocks) * SIZE // code.group] if code.groups > 1 else np.repeat(whole, blocks, axis=1)


def _of_grid(kind: Block, grid: Grid) -> NDArray[np.uint8]:
    d = grid.scale.decode().reshape(-1, 1)
    least = -d * grid.zero_points().reshape(-1, 1).astype(np.float32)
    return _packed(kind, grid.q.reshape(-1, SIZE), d, least, len(grid.q))


def _candidates(kind: Block, w: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Grids to try for groups of weights (n, 32): scales and zero points (n, 1) as they will be stored."""
    top = np.float32((1 << kind.bits) - 1)
    for share in SHRINK:
        if kind.least:
            low, high = (np.float32(share) * end(w, axis=1, keepdims=True) for end in (np.min, np.max))
            d, low = _step((high - low) / top), _half(low)
            yield d, -low / d
        else:
            farthest = np.take_along_axis(w, np.abs(w).argmax(1)[:, None], 1)
            middle = np.float32(1 << (kind.bits - 1))
            yield _step(np.float32(share) * farthest / -middle), np.full_like(farthest, middle)


def _half(values: Floats) -> Floats:
    """Rounded to 16 bits."""
    return values.astype(np.float16).astype(np.float32)


def _step(values: Floats) -> Floats:
    """Rounded to 16 bits; zero, which cannot divide, becomes one."""
    half = _half(values)
    return np.where(half == 0, np.float32(1), half)


def _packed(kind: Block, q: NDArray[np.uint8], d: Floats, least: Floats, rows: int) -> NDArray[np.uint8]:
    """Blocks as ggml lays them out. q: levels (n, 32); d, least: (n, 1)."""
    parts: list[NDArray[Any]] = [_bytes(d), *([_bytes(least)] if kind.least else [])]
    if kind.bits == 8:
        parts.append((q.astype(np.int16) - 128).astype(np.int8).view(np.uint8))
    else:
        if kind.bits == 5:
            parts.append(np.packbits(q >> 4, axis=1, bitorder="little"))
        low, high = q[:, : SIZE // 2] & 15, q[:, SIZE // 2 :] & 15
        parts.append(low | high << 4)
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def _bytes(values: Floats) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8)
