"""Group grids: as they are where a target holds them exactly, else the nearest that it can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes import Dense, Grid
from rarefy.maths import affine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from rarefy.codes import Code

    Floats = NDArray[np.float32]
    Candidates = Callable[[Floats], Iterator[tuple[Floats, Floats]]]
    """Groups of weights (n, group) -> grids to try, each a scale and a zero point (n, 1)."""
    Rounded = Callable[[Floats, Floats, Floats], Floats]
    """Groups of weights, their scale and zero point -> the levels that they get there."""

SHRINK = (1.0, 0.94, 0.88, 0.82, 0.76)
"""Shares of a group's range that its grid may span: a finer grid can be worth the outermost weights."""

_AT_ONCE = 1 << 20


def held(code: Code, bits: int, group: int, *, symmetric: bool, scale: str) -> Grid | None:
    """A grid's own levels in another grid's form, its scales rounded to `scale`; None where they do not fit.

    group: of the other grid; it must divide this one's, unless a row has one scale.
    symmetric: its zero point is 2^(bits - 1), which moves the levels; else they stay where they are.
    """
    if not isinstance(code, Grid):
        return None
    out, columns = code.q.shape
    if (code.groups > 1 and code.group % group) or (columns % group and group < columns):
        return None
    zero = np.broadcast_to(code.zero_points(), (out, code.groups))
    if symmetric:
        middle = 1 << (bits - 1)
        levels = code.q.astype(np.int16) - code._spread(zero) + middle
        if levels.size and not (levels.min() >= 0 and levels.max() < 2 * middle):
            return None
        q = levels.astype(np.uint8)
    elif code.bits_per_symbol > bits:
        return None
    else:
        q = code.q
    groups = max(1, -(-columns // group))
    each = np.arange(groups) * group // code.group if code.groups > 1 else np.zeros(groups, np.intp)
    scales = np.broadcast_to(code.scale.decode(), (out, code.groups))[:, each]
    return Grid(
        q,
        Dense.of(np.ascontiguousarray(scales), scale),
        None if symmetric else np.ascontiguousarray(zero[:, each]),
        bits_per_symbol=bits,
        group=min(group, max(columns, 1)),
        shape=code.shape,
    )


def nearest(code: Code, bits: int, group: int, *, symmetric: bool, scale: str) -> Grid:
    """The affine or symmetric grid with the least squared error among those that span shares of each group's range.

    group: divides the columns.
    """

    def candidates(w: Floats) -> Iterator[tuple[Floats, Floats]]:
        low, high = w.min(1, keepdims=True), w.max(1, keepdims=True)
        for share in SHRINK:
            yield affine.fit(
                low * np.float32(share), high * np.float32(share), bits, symmetric=symmetric, scale_dtype=scale
            )

    w = code.decode()
    w = w.reshape(len(w), -1)
    q, s, z = closest(w.reshape(-1, group), candidates, within(bits))
    rows = (len(w), -1)
    return Grid(
        q.reshape(w.shape),
        Dense.of(s.reshape(rows), scale),
        None if symmetric else z.reshape(rows).astype(np.uint8),
        bits_per_symbol=bits,
        group=group,
        shape=code.shape,
    )


def within(bits: int) -> Rounded:
    """To the nearest of the levels 0 .. 2^bits - 1."""
    top = np.float32((1 << bits) - 1)
    return lambda w, s, z: np.clip(np.rint(w / s + z), 0, top)


def closest(w: Floats, candidates: Candidates, rounded: Rounded) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Each group's best grid: its levels (n, group), its scale and zero point (n, 1). w: groups (n, group)."""
    q = np.empty(w.shape, np.uint8)
    s, z = (np.empty((len(w), 1), np.float32) for _ in range(2))
    step = max(1, _AT_ONCE // max(1, w.shape[1]))
    for start in range(0, len(w), step):
        rows = slice(start, start + step)
        q[rows], s[rows], z[rows] = _closest(w[rows], candidates, rounded)
    return q, s, z


def _closest(w: Floats, candidates: Candidates, rounded: Rounded) -> tuple[Any, Any, Any]:
    least = np.full((len(w), 1), np.inf, np.float32)
    best: list[NDArray[Any]] = [np.zeros(w.shape, np.float32), np.zeros_like(least), np.zeros_like(least)]
    for s, z in candidates(w):
        q = rounded(w, s, z)
        lost = np.square((q - z) * s - w).sum(1, keepdims=True)
        better = lost < least
        least = np.where(better, lost, least)
        best = [np.where(better, new, old) for new, old in zip((q, s, z), best, strict=True)]
    return best[0].astype(np.uint8), best[1], best[2]
