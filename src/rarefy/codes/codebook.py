"""Codebook: each weight an index into a table of at most 256 centroids (Han, Mao and Dally, "Deep Compression", ICLR
2016, section 3).

Centroids stand in ascending order, so that indices of like weights are alike and the table costs its gaps. The symbol
written for an index counts from the first centroid that is not negative: zero, where there is one, is the symbol 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect
from rarefy.codes.dense import Dense
from rarefy.codes.dtypes import BY_NUMBER, DType
from rarefy.codes.sparse import Sparse
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

CENTROIDS: Final = 256
LAST_FASTEST, FIRST_FASTEST = 0, 1


class Codebook(Code):
    """Indices into a table of centroids.

    centroids: Dense, (k,), floats in ascending order of their bits' `position`, 1 <= k <= 256. One that is zero is not
        free: it stays zero.
    index: uint8, in `shape`, below k.
    order: which index of `shape` the symbols run through fastest. With the first, what an adaptive coder sees as a row
        are the weights of one place in all kernels, and as a column the places of one kernel, which are alike.
    """

    KIND: ClassVar[int] = 3

    def __init__(self, centroids: Dense, index: NDArray[np.uint8], *, order: int = LAST_FASTEST) -> None:
        self.centroids, self.index, self.order = centroids, index, order
        self.shape: Shape = index.shape
        self.values = centroids.decode()

    @classmethod
    def of(cls, weights: NDArray[np.float32], *, order: int = LAST_FASTEST) -> Codebook:
        """The code of float32 `weights`, bit for bit. Raises ValueError when they have more than 256 values."""
        bits = np.asarray(weights, np.float32, order="C").view(np.uint32)
        distinct, index = np.unique(position(bits), return_inverse=True)
        if not 1 <= distinct.size <= CENTROIDS:
            raise ValueError(f"{distinct.size} values are no codebook")
        raw = unposition(distinct).view(np.float32)
        return cls(Dense.of(raw), index.reshape(weights.shape).astype(np.uint8), order=order)

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        moved, fixed = free["centroids"], self.values == 0
        if isinstance(moved, np.ndarray):
            table = self.values.copy()  # with zeros of either sign
            table[~fixed] = moved
            return np.asarray(table[self.index])
        table = moved.new_tensor(self.values).masked_scatter(moved.new_tensor(~fixed).bool(), moved)
        return table[moved.new_tensor(self.index).long()]

    def free(self) -> dict[str, Array]:
        return {"centroids": self.values[self.values != 0]}

    def with_free(self, new: Mapping[str, Array]) -> Codebook:
        table = self.values.copy()
        table[self.values != 0] = new["centroids"]
        raw = self.centroids.with_free({"values": table}).raw()
        ranks = np.argsort(position(_bits(raw)), kind="stable")
        sorted_, index = raw[ranks], np.argsort(ranks).astype(np.uint8)[self.index]
        return Codebook(Dense(lambda: sorted_, sorted_.shape, self.centroids.dtype), index, order=self.order)

    def masked(self, keep: NDArray[np.bool_]) -> Code:
        zeros = np.flatnonzero(self.values == 0)
        if not zeros.size:
            return Sparse(keep, self)
        return Codebook(self.centroids, np.where(keep, self.index, np.uint8(zeros[-1])), order=self.order)

    def support(self) -> NDArray[np.bool_] | None:
        nonzero = self.values != 0
        return None if nonzero.all() else np.asarray(nonzero[self.index])

    def settings(self) -> tuple[int, ...]:
        return self.centroids.dtype.number, self.values.size, self.order

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        bits = _bits(self.centroids.raw())
        gaps = np.diff(position(bits), prepend=bits.dtype.type(0))
        for i, plane in enumerate(_planes(gaps)):
            yield Stream(f"centroids{i}", plane)
        top, zero = _top(bits.size), _negative(bits)
        symbols = _ordered(_shifted(self.index, -zero, top), self.order)
        yield Stream("index", _rows(symbols) if keep is None else symbols[_ordered(keep, self.order)])

    @staticmethod
    def _settings(node: Node) -> tuple[DType, int, int]:
        expect(len(node.settings) == 3 and not node.children, "a codebook has three settings and no code inside")
        number, size, order = node.settings
        expect(number in BY_NUMBER and BY_NUMBER[number].floating, "a codebook's centroids are of no known float type")
        expect(1 <= size <= CENTROIDS and order in (LAST_FASTEST, FIRST_FASTEST), "a codebook's settings are off")
        return BY_NUMBER[number], size, order

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        yield from (f"centroids{i}" for i in range(cls._settings(node)[0].size))
        yield "index"

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Codebook:
        dtype, size, order = cls._settings(node)
        gaps = np.stack([source.next(size) for _ in range(dtype.size)], axis=1).view(f">u{dtype.size}").reshape(-1)
        positions = np.cumsum(gaps, dtype=f"<u{dtype.size}")
        expect(bool((positions[1:] >= positions[:-1]).all()), "a codebook's centroids leave their type")
        bits = unposition(positions)
        top, zero = _top(size), _negative(bits)
        seen = shape[::-1] if order == FIRST_FASTEST else shape
        if keep is None:
            symbols = source.next(math.prod(shape)).reshape(seen)
        else:
            symbols = np.full(seen, -zero & top, np.uint8)  # what nobody sees is the first centroid
            symbols[_ordered(keep, order)] = source.next(int(np.count_nonzero(keep)))
        index = _shifted(_ordered(symbols, order), zero, top)
        expect(index.size == 0 or int(index.max()) < size, "a codebook's index is past its centroids")
        raw = bits.view(dtype.raw)
        return cls(Dense(lambda: raw, raw.shape, dtype), index, order=order)


def position(bits: NDArray[Any]) -> NDArray[Any]:
    """Where floats stand in their order, from their bit patterns (unsigned): the sign bit set if it was not, all bits
    inverted if it was."""
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & sign, ~bits, bits ^ sign)


def unposition(positions: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `position`."""
    sign = positions.dtype.type(1 << (8 * positions.itemsize - 1))
    return np.where(positions & sign, positions ^ sign, ~positions)


def _bits(raw: NDArray[Any]) -> NDArray[Any]:
    return raw.view(f"<u{raw.itemsize}")


def _planes(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of unsigned integers, (width, n), the highest first."""
    return numbers.astype(numbers.dtype.newbyteorder(">")).view(np.uint8).reshape(numbers.size, -1).T


def _negative(bits: NDArray[Any]) -> int:
    """How many have the sign bit."""
    return int(np.count_nonzero(bits >> bits.dtype.type(8 * bits.itemsize - 1)))


def _top(size: int) -> int:
    """All bits set that an index needs."""
    return (1 << (size - 1).bit_length()) - 1


def _shifted(numbers: NDArray[np.uint8], by: int, top: int) -> NDArray[np.uint8]:
    """numbers + by, of the bits in `top`."""
    return np.asarray(np.add(numbers, np.uint8(by % CENTROIDS)) & np.uint8(top))


def _ordered(array: NDArray[Any], order: int) -> NDArray[Any]:
    """The array so that its row-major sequence is in `order`; its own inverse."""
    return np.array(array.T, order="C") if order == FIRST_FASTEST else array


def _rows(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As a matrix for coders that look at neighbours: the last two indices run along a row, of three or more."""
    sizes = [size for size in symbols.shape if size != 1]
    if symbols.size == 0 or len(sizes) < 2:
        return symbols
    return symbols.reshape(-1, sizes[-1] * (sizes[-2] if len(sizes) > 2 else 1))
