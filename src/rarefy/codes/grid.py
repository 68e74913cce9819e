"""Grid: integers on an affine grid, one scale and zero point per tensor, channel or group.

A weight is (q - zero) * scale with 0 <= q, zero < 2^bits. Zero is always on the grid, so masking needs no mask. The
symbol written is (q - zero) mod 2^bits: whatever the zero points, a zero weight is the symbol 0 and small weights
lie around it, which is what an entropy coder wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, matrix, names
from rarefy.codes.base import read as read_code
from rarefy.codes.dense import Dense
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

SYMMETRIC, AFFINE = 0, 1


def spread(per_group: Array, group: int, columns: int) -> Array:
    """A value per group, (rows, groups), repeated for each of its columns: (rows, columns). NumPy or torch."""
    if isinstance(per_group, np.ndarray):
        return np.repeat(per_group, group, axis=1)[:, :columns]
    return per_group.repeat_interleave(group, dim=1)[:, :columns]


class Grid(Code):
    """Integers with a scale per group of `group` consecutive inputs of each output row.

    q: uint8, the parameter's matrix view (out, in).
    scale: Dense, (out, groups), or (1, 1) for the whole tensor; groups = ceil(in / group).
    zero: uint8, the scale's shape, or None for the symmetric grid, whose zero point is 2^(bits - 1).
    bits: 1 to 8.
    """

    KIND: ClassVar[int] = 1

    def __init__(
        self,
        q: NDArray[np.uint8],
        scale: Dense,
        zero: NDArray[np.uint8] | None,
        *,
        bits_per_symbol: int,
        group: int,
        shape: Shape,
    ) -> None:
        self.q, self.scale, self.zero = q, scale, zero
        self.bits_per_symbol, self.group, self.shape = bits_per_symbol, group, shape

    @property
    def groups(self) -> int:
        return self.scale.shape[1]

    def zero_points(self) -> NDArray[np.uint8]:
        """The zero points, (rows of scale, groups), whether stored or implied."""
        if self.zero is not None:
            return self.zero
        return np.full(self.scale.shape, 1 << (self.bits_per_symbol - 1), np.uint8)

    def _spread(self, per_group: Array) -> Array:
        return per_group if self.groups == 1 else spread(per_group, self.group, self.q.shape[1])

    def decode(self) -> NDArray[np.float32]:
        from rarefy.native import dequantize_groups

        out, columns = self.q.shape
        if not self.q.size:
            return np.zeros(self.shape, np.float32)
        rows = (out, self.groups)
        scale = np.ascontiguousarray(np.broadcast_to(self.scale.decode(), rows))
        zero = np.ascontiguousarray(np.broadcast_to(self.zero_points(), rows))
        values = np.empty((out, columns), np.float32)
        dequantize_groups(self.q, scale, zero, min(self.group, columns), values)
        return values.reshape(self.shape)

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        scale = free["scale"]
        steps = self.q.astype(np.float32) - self._spread(self.zero_points()).astype(np.float32)
        if not isinstance(scale, np.ndarray):
            steps = scale.new_tensor(steps)
        return (steps * self._spread(scale)).reshape(self.shape)

    def free(self) -> dict[str, Array]:
        return {"scale": self.scale.decode()}

    def with_free(self, new: Mapping[str, Array]) -> Grid:
        return self._with(self.q, self.scale.with_free({"values": new["scale"]}))

    def masked(self, keep: NDArray[np.bool_]) -> Grid:
        zero = np.broadcast_to(self._spread(self.zero_points()), self.q.shape)
        return self._with(np.where(keep.reshape(self.q.shape), self.q, zero), self.scale)

    def support(self) -> NDArray[np.bool_]:
        support: NDArray[np.bool_] = self.q != self._spread(self.zero_points())
        return support.reshape(self.shape)

    def _with(self, q: NDArray[np.uint8], scale: Dense) -> Grid:
        return Grid(q, scale, self.zero, bits_per_symbol=self.bits_per_symbol, group=self.group, shape=self.shape)

    def settings(self) -> tuple[int, ...]:
        whole = self.scale.shape[0] == 1 and self.q.shape[0] != 1
        return self.bits_per_symbol, self.group, SYMMETRIC if self.zero is None else AFFINE, int(whole)

    def children(self) -> tuple[Code, ...]:
        return (self.scale,)

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        yield from self.scale.streams()
        if self.zero is not None:
            yield Stream("zero", self.zero)
        top = np.uint8((1 << self.bits_per_symbol) - 1)
        symbols = (self.q - self._spread(self.zero_points())) & top
        yield Stream("values", symbols if keep is None else symbols[keep.reshape(self.q.shape)])

    @staticmethod
    def _settings(node: Node) -> tuple[int, ...]:
        expect(len(node.settings) == 4 and len(node.children) == 1, "a grid needs four settings and a scale")
        expect(node.children[0].kind == Dense.KIND, "a grid's scale is dense")
        bits, group, affine, whole = node.settings
        expect(1 <= bits <= 8 and group >= 1 and affine in (0, 1) and whole in (0, 1), "a grid's settings are off")
        return node.settings

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        cls._settings(node)
        yield from names(node.children[0], "scale")
        if node.settings[2] == AFFINE:
            yield "zero"
        yield "values"

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Grid:
        bits, group, affine, whole = cls._settings(node)
        out, columns = matrix(shape)
        groups = max(1, -(-columns // group))
        expect(not whole or groups == 1, "a grid with one scale has one group")
        rows = (1 if whole else out, groups)
        scale = read_code(rows, node.children[0], source)
        assert isinstance(scale, Dense)
        top = np.uint8((1 << bits) - 1)
        zero = source.next(rows[0] * rows[1]).reshape(rows) if affine else None
        expect(zero is None or zero.size == 0 or int(zero.max()) <= int(top), "a grid's zero point is off the grid")
        if keep is None:
            symbols = source.next(out * columns).reshape(out, columns)
        else:
            symbols = np.zeros((out, columns), np.uint8)
            symbols[keep.reshape(out, columns)] = source.next(int(np.count_nonzero(keep)))
        expect(symbols.size == 0 or int(symbols.max()) <= int(top), "a grid's symbol is off the grid")
        grid = cls(symbols, scale, zero, bits_per_symbol=bits, group=group, shape=shape)
        return grid._with((symbols + grid._spread(grid.zero_points())) & top, scale)
