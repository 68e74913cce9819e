"""Separable: integers on a grid whose step is a scale of the row times a scale of the column.

A weight is sign(q) * points[|q|] * row[r] * column[i], where points[k] = k but for the first three, which may lie
nearer to zero, as the centroids of a bell's bins do. How widely the integers of a row and a column spread is in the
file before them (`entropy.spread`), so that each is coded under a bell of its own, without a table.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, matrix, names
from rarefy.codes.base import read as read_code
from rarefy.codes.dense import Dense
from rarefy.codes.dtypes import dtype_of
from rarefy.entropy import Stream, spread
from rarefy.native import _kernels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Far = tuple[NDArray[np.int64], NDArray[np.int32]]

OCTAVE = 32
"""Exponents to a factor of two: rounding a scale to one moves it by at most 1.1 %."""

POINTS = 3
"""Reconstruction points that are stored: of |q| = 1, 2, 3."""

ESCAPE = -128
"""The symbol of an integer beyond 127 either way; the integer itself stands in a stream of its own."""

_PART = 1 << 18
"""Integers looked through at a time, so that what is made on the way stays in the cache."""

I16, BF16 = dtype_of("I16").number, dtype_of("BF16").number

_BITS = [2.0]
for _ in range(5):
    _BITS.append(float(np.sqrt(_BITS[-1])))
# 2^(k / 32) from square roots, which every machine rounds alike.
ROOTS = np.array([np.prod([_BITS[5 - b] for b in range(5) if k >> b & 1]) for k in range(OCTAVE)]).astype(np.float32)


def exponents(scale: NDArray[Any]) -> NDArray[np.int16]:
    """The nearest exponents e of scales 2^(e / 32); a scale below float32's normal numbers, zero too, is the least."""
    normal = np.maximum(np.asarray(scale, np.float64), np.finfo(np.float32).tiny)
    return np.asarray(np.rint(OCTAVE * np.log2(normal)), np.int16)


def powers(exponent: NDArray[np.int16]) -> NDArray[np.float32]:
    """2^(exponent / 32), float32."""
    values: NDArray[np.float32] = np.ldexp(ROOTS[exponent % OCTAVE], exponent // OCTAVE)
    return values


class Separable(Code):
    """Integers on a grid of separable step.

    q: int32, the parameter's matrix view (out, in). Or int8, ESCAPE where `far` has more: the places (int64 (n,), in
    the flat matrix) and the integers there (int32 (n,)).
    rows, columns: int16 exponents of the scales, (out,) and (in,); `powers` gives the scales.
    points: float32 (3,), what |q| = 1, 2, 3 stand for; stored as BF16.
    """

    KIND: ClassVar[int] = 4

    def __init__(
        self,
        q: NDArray[np.int32] | NDArray[np.int8],
        rows: NDArray[np.int16],
        columns: NDArray[np.int16],
        points: NDArray[np.float32] | None = None,
        *,
        shape: Shape,
        far: Far | None = None,
    ) -> None:
        self._near, self._far = q, far
        self.rows, self.columns, self.shape = rows, columns, shape
        points = np.arange(1, POINTS + 1, dtype=np.float32) if points is None else points
        self.points = Dense.of(points, "BF16")

    @functools.cached_property
    def q(self) -> NDArray[np.int32]:
        """The integers, int32 (out, in)."""
        q = self._near.astype(np.int32, copy=False)
        if self._far is not None:
            places, integers = self._far
            q.reshape(-1)[places] = integers
        return q

    def near(self) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """The integers at a byte each (out, in), ESCAPE in the place of those beyond 127; these in their order."""
        if self._far is not None:
            return np.asarray(self._near, np.int8), self._far[1]
        far = _far(self.q)
        near = self.q.astype(np.int8)
        near[far] = ESCAPE
        return near, self.q[far]

    def holds_as(self, other: Separable) -> bool:
        """Whether both hold the same integers on the same grid: seen without restoring either."""
        pairs = (
            (self.q, other.q),
            (self.rows, other.rows),
            (self.columns, other.columns),
            (self.points.decode(), other.points.decode()),
        )
        return self.shape == other.shape and all(np.array_equal(ours, theirs) for ours, theirs in pairs)

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        levels, points = np.where(np.abs(self.q) > POINTS, self.q, 0).astype(np.float32), free["points"]
        if not isinstance(points, np.ndarray):
            levels = points.new_tensor(levels)
        for k in range(POINTS):
            signs = ((self.q == k + 1).astype(np.float32) - (self.q == -k - 1)).astype(np.float32)
            levels = levels + (signs if isinstance(points, np.ndarray) else points.new_tensor(signs)) * points[k]
        step = free["rows"][:, None] * free["columns"][None, :]
        return (levels * step).reshape(self.shape)

    def decode(self) -> NDArray[np.float32]:
        return self._times(powers(self.rows), powers(self.columns)).reshape(self.shape)

    def levels(self) -> NDArray[np.float32]:
        """What the integers stand for, in steps of row and column: (out, in)."""
        rows, columns = (np.ones(n, np.float32) for n in self._near.shape)
        return self._times(rows, columns)

    def _times(self, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the integers stand for, where these are the steps: (out, in)."""
        values = np.empty(self._near.shape, np.float32)
        q: NDArray[Any] = np.ascontiguousarray(self._near)
        _kernels.dequantize_separable(q, rows, columns, self.points.decode(), values)
        if self._far is not None:
            places, integers = self._far
            row, column = np.divmod(places, max(len(columns), 1))
            values.reshape(-1)[places] = integers.astype(np.float32) * (rows[row] * columns[column])
        return values

    def free(self) -> dict[str, Array]:
        return {"rows": powers(self.rows), "columns": powers(self.columns), "points": self.points.decode()}

    def with_free(self, new: Mapping[str, Array]) -> Separable:
        rows, columns = exponents(new["rows"]), exponents(new["columns"])
        return Separable(self.q, rows, columns, np.asarray(new["points"], np.float32), shape=self.shape)

    def masked(self, keep: NDArray[np.bool_]) -> Separable:
        q = np.where(keep.reshape(self.q.shape), self.q, 0)
        return Separable(q, self.rows, self.columns, self.points.decode(), shape=self.shape)

    def support(self) -> NDArray[np.bool_]:
        support: NDArray[np.bool_] = (self.q != 0).reshape(self.shape)
        return support

    def settings(self) -> tuple[int, ...]:
        return (int(np.count_nonzero(_far(self.q))),)

    def children(self) -> tuple[Code, ...]:
        return Dense.of(self.rows, "I16"), Dense.of(self.columns, "I16"), self.points

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        for child in self.children():
            yield from child.streams()
        kept = None if keep is None else keep.reshape(self.q.shape)
        rows, columns = spread.fit(np.abs(self.q, dtype=np.float32, casting="unsafe"), kept)
        yield Stream("row spread", rows.view(np.uint8))
        yield Stream("column spread", columns.view(np.uint8))
        (near, far), given = self.near(), spread.given(rows, columns)
        symbols = near.view(np.uint8)
        yield Stream("values", *((symbols, given) if kept is None else (symbols[kept], given[kept])))
        yield Stream("far", far.astype("<i4").view(np.uint8))

    def parts(self, count: int) -> list[Separable]:
        """So many equal runs of rows, each by itself."""
        pieces = zip(np.split(self.q, count), np.split(self.rows, count), strict=True)
        return [Separable(q, rows, self.columns, self.points.decode(), shape=q.shape) for q, rows in pieces]

    def values(self) -> Stream:
        """The stream of the integers, by far the largest."""
        return next(stream for stream in self.streams() if stream.name == "values")

    @staticmethod
    def _far_count(node: Node) -> int:
        expect(len(node.settings) == 1 and len(node.children) == 3, "a separable grid has one setting and three scales")
        types = [child.settings for child in node.children if child.kind == Dense.KIND]
        expect(types == [(I16,), (I16,), (BF16,)], "a separable grid's scales are of other types")
        return node.settings[0]

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        cls._far_count(node)
        for name, child in zip(("rows", "columns", "points"), node.children, strict=True):
            yield from names(child, name)
        yield from ("row spread", "column spread", "values", "far")

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Separable:
        far = cls._far_count(node)
        sizes = *matrix(shape), POINTS
        parts = [read_code((n,), child, source) for n, child in zip(sizes, node.children, strict=True)]
        rows, columns = (part.raw() for part in parts[:2] if isinstance(part, Dense))
        indices = spread.given(*(source.next(n).view(np.int8) for n in sizes[:2]))
        kept = None if keep is None else keep.reshape(indices.shape)
        given = (indices if kept is None else indices[kept]).reshape(-1)
        near = source.next(given.size, given).view(np.int8)
        beyond = source.next(4 * far).view("<i4")
        expect(bool(_far(beyond).all()), "a separable grid's far integer is near")
        if kept is None:
            q = near.reshape(indices.shape)
        else:
            q = np.zeros(indices.shape, np.int8)
            q[kept] = near
        places = _escaped(q.reshape(-1))
        expect(places.size == far, "a separable grid has another number of far integers")
        return cls(q, rows, columns, parts[2].decode(), shape=shape, far=(places, beyond))


def _escaped(near: NDArray[np.int8]) -> NDArray[np.int64]:
    """Where ESCAPE stands: (n,)."""
    parts = (np.flatnonzero(near[at : at + _PART] == ESCAPE) + at for at in range(0, near.size, _PART))
    return np.concatenate([np.empty(0, np.int64), *parts])


def _far(q: NDArray[np.int32]) -> NDArray[np.bool_]:
    far: NDArray[np.bool_] = (q > 127) | (q < -127)
    return far
