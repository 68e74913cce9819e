"""Weights whose products never saturate where two are added up in 16 bits.

x86 processors without VNNI multiply with vpmaddubsw: products of unsigned by signed 8 bits, each two neighbours' sum
held in 16 bits. 255 (a + b) fits as long as |a + b| <= 128, for whatever activations. Weights of 7 bits keep that, and
are twice as coarse as need be: of two neighbours it is rare that both are large and of one sign.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense, Grid
from rarefy.export.nearest import closest, held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rarefy.codes import Code

    Floats = NDArray[np.float32]

MOST: Final = 128
"""What two neighbours may add up to: 2^15 / 255, rounded down."""

TOP: Final = 127

ZERO: Final = 128
"""The level that stands for zero."""

SPANS: Final = tuple(2 * 0.96**k for k in range(25))
"""Steps of a row to try, over that at which its largest weight is 127: from 7 bits, where nothing is lost but
fineness, to one that clips the largest by a quarter."""


def unsaturated(code: Code) -> Grid:
    """Signed 8 bits with one scale an output: a grid's own integers where no two neighbours saturate, else the nearest
    such levels, at the step of each row that loses least squared error.

    code: (out, in, ...). Neighbours are those of the kernels' order, in which the inputs come last.
    """
    columns = math.prod(code.shape[1:])
    own = held(code, 8, columns, symmetric=True, scale="F32")
    if own is not None and saturation(_signed(own)) <= MOST:
        return own
    w = code.decode()
    levels, scales, _ = closest(_neighbours(w), _steps, lambda part, s, z: _rounded(part / s) + z)
    q = _original_order(levels[:, :columns], w.shape)
    return Grid(q, Dense.of(scales, "F32"), None, bits_per_symbol=8, group=max(columns, 1), shape=code.shape)


def saturation(levels: NDArray[Any]) -> int:
    """The largest that two neighbours add up to. levels: signed, (out, in, ...)."""
    rows = _neighbours(levels)
    return int(np.abs(rows[:, ::2] + rows[:, 1::2]).max(initial=0))


def _signed(grid: Grid) -> NDArray[np.int32]:
    return (grid.q.astype(np.int32) - ZERO).reshape(grid.shape)


def _neighbours(w: NDArray[Any]) -> NDArray[Any]:
    """(out, in, ...) as (out, kernel * in), and a column of zeros where that is odd."""
    rows = np.moveaxis(w, 1, -1).reshape(len(w), math.prod(w.shape[1:]))
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))


def _original_order(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `_neighbours`, as (out, in * kernel)."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1).reshape(rows.shape)


def _steps(w: Floats) -> Iterator[tuple[Floats, Floats]]:
    """For `closest`: SPANS of each row of weights (out, n)."""
    finest = np.abs(w).max(1, keepdims=True, initial=0) / np.float32(TOP)
    finest[finest == 0] = 1
    for span in SPANS:
        yield finest * np.float32(span), np.full_like(finest, ZERO)


def _rounded(x: Floats) -> Floats:
    """The integers nearest to weights over their step: neighbours that saturate share what is too much."""
    pairs = np.clip(x, -TOP, TOP).reshape(len(x), x.shape[1] // 2, 2)
    total = pairs.sum(-1, keepdims=True)
    q = np.rint(pairs - (total - np.clip(total, -MOST, MOST)) / 2)
    q[..., 1:] -= np.sign(q.sum(-1, keepdims=True)) * (np.abs(q.sum(-1, keepdims=True)) > MOST)
    found: Floats = q.reshape(x.shape)
    return found
