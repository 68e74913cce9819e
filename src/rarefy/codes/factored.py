"""Factored: a matrix of low rank as the product of two, each in a code of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, free_in, free_of, matrix, names
from rarefy.codes.base import read as read_code
from rarefy.codes.dense import Dense
from rarefy.codes.grid import Grid
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.codes.sparse import Sparse

_ROWS = 1024
"""Rows or columns of the product made at a time, so that little stands in float64."""


def fits(rank: int, shape: Shape) -> bool:
    """Whether two factors of this rank have no more numbers than the matrix."""
    out, columns = matrix(shape)
    return rank >= 1 and 0 < rank * (out + columns) <= out * columns


class Factored(Code):
    """A B, summed in float64: products of float32 numbers are exact there, and the order hardly shows in float32.

    a: dense or grid, (out, rank). b: the same, (rank, in). rank: such that it `fits`.
    """

    KIND: ClassVar[int] = 5

    def __init__(self, a: Code, b: Code, *, shape: Shape) -> None:
        self.a, self.b, self.shape = a, b, shape

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        a, b = self.a.rebuild(free_in(free, "a")), self.b.rebuild(free_in(free, "b"))
        if isinstance(a, np.ndarray):
            return _product(a, b).reshape(self.shape)
        return (a.double() @ b.double()).float().reshape(self.shape)

    def free(self) -> dict[str, Array]:
        return free_of({"a": self.a, "b": self.b})

    def with_free(self, new: Mapping[str, Array]) -> Factored:
        return Factored(self.a.with_free(free_in(new, "a")), self.b.with_free(free_in(new, "b")), shape=self.shape)

    def masked(self, keep: NDArray[np.bool_]) -> Sparse:
        from rarefy.codes.sparse import Sparse

        return Sparse(keep, self)

    def settings(self) -> tuple[int, ...]:
        return (self.rank,)

    def children(self) -> tuple[Code, ...]:
        return self.a, self.b

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        for child in self.children():
            yield from child.streams()

    @staticmethod
    def _rank(node: Node) -> int:
        expect(len(node.settings) == 1 and len(node.children) == 2, "a factored code has a rank and two factors")
        factors = {child.kind for child in node.children}
        expect(factors <= {Dense.KIND, Grid.KIND}, "a factor is neither dense nor a grid")
        return node.settings[0]

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        cls._rank(node)
        yield from names(node.children[0], "a")
        yield from names(node.children[1], "b")

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Factored:
        rank = cls._rank(node)
        expect(fits(rank, shape), "a factored code has more numbers than its matrix")
        out, columns = matrix(shape)
        a = read_code((out, rank), node.children[0], source)
        return cls(a, read_code((rank, columns), node.children[1], source), shape=shape)


def _product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    made = np.empty((len(a), b.shape[1]), np.float32)
    long, short, into = (a, b, made) if len(a) >= b.shape[1] else (b.T, a.T, made.T)
    right = short.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(long), _ROWS):
            into[start : start + _ROWS] = long[start : start + _ROWS].astype(np.float64) @ right
    return made
