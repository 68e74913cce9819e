"""Scaled: the values of another code, each times a scale.

With a scale for each run of columns of a row, a codebook becomes a block-wise one (NF4); with one for each column of
the matrix, a grid becomes one whose columns were stretched before rounding (AWQ). Scales may be integers on a grid
themselves: double quantization.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, free_in, free_of, matrix, names
from rarefy.codes.base import read as read_code
from rarefy.codes.codebook import Codebook
from rarefy.codes.dense import Dense
from rarefy.codes.grid import Grid, spread
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_VALUES = (Dense.KIND, Grid.KIND, Codebook.KIND)
_SCALES = (Dense.KIND, Grid.KIND)


class Scaled(Code):
    """values x scale.

    scale: a code of a vector: a scale for each run of `group` columns, the last may be short, of each row, row after
        row; or of all rows alike when it has just as many as one row has runs.
    values: dense, grid or codebook, in the parameter's shape.
    """

    KIND: ClassVar[int] = 7

    def __init__(self, scale: Code, values: Code, *, group: int) -> None:
        self.scale, self.values, self.group, self.shape = scale, values, group, values.shape

    def _times(self, values: Array, scale: Array) -> Array:
        columns = matrix(self.shape)[1]
        groups = _groups(columns, self.group)
        scale = scale.reshape(-1, groups)
        if groups > 1:
            scale = spread(scale, self.group, columns)
        with np.errstate(over="ignore", invalid="ignore"):
            return (values.reshape(matrix(self.shape)) * scale).reshape(self.shape)

    def decode(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._times(self.values.decode(), self.scale.decode())
        return values

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        scale = self.scale.rebuild(free_in(free, "scale"))
        return self._times(self.values.rebuild(free_in(free, "values")), scale)

    def free(self) -> dict[str, Array]:
        return free_of({"scale": self.scale, "values": self.values})

    def with_free(self, new: Mapping[str, Array]) -> Scaled:
        scale = self.scale.with_free(free_in(new, "scale"))
        return Scaled(scale, self.values.with_free(free_in(new, "values")), group=self.group)

    def masked(self, keep: NDArray[np.bool_]) -> Code:
        from rarefy.codes.sparse import Sparse

        values = self.values.masked(keep)
        # A support stands outside, where others can be joined to it.
        return Sparse(keep, self) if isinstance(values, Sparse) else Scaled(self.scale, values, group=self.group)

    def support(self) -> NDArray[np.bool_] | None:
        return self.values.support()

    def settings(self) -> tuple[int, ...]:
        out, columns = matrix(self.shape)
        whole = out != 1 and math.prod(self.scale.shape) == _groups(columns, self.group)
        return self.group, int(whole)

    def children(self) -> tuple[Code, ...]:
        return self.scale, self.values

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        yield from self.scale.streams()
        yield from self.values.streams(keep)

    @staticmethod
    def _settings(node: Node) -> tuple[int, int]:
        expect(len(node.settings) == 2 and len(node.children) == 2, "a scaled code needs two settings, a scale, values")
        scale, values = node.children
        expect(scale.kind in _SCALES and values.kind in _VALUES, "a scaled code holds codes that it may not hold")
        group, whole = node.settings
        expect(group >= 1 and whole in (0, 1), "a scaled code's settings are off")
        return group, whole

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        cls._settings(node)
        yield from names(node.children[0], "scale")
        yield from names(node.children[1])

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Scaled:
        group, whole = cls._settings(node)
        out, columns = matrix(shape)
        scale = read_code(((1 if whole else out) * _groups(columns, group),), node.children[0], source)
        return cls(scale, read_code(shape, node.children[1], source, keep), group=group)


def _groups(columns: int, group: int) -> int:
    return max(1, -(-columns // group))
