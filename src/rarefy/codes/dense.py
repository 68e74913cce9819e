"""Dense: every element in its own type, bit for bit.

A float is rotated left by one bit, which puts the exponent at the top and the sign at the bottom, and cut into byte
planes, the highest first: exponents of trained weights have about 3 bits of entropy, mantissas none to give.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect
from rarefy.codes.dtypes import BY_NUMBER, DType, dtype_of, from_float32, to_float32
from rarefy.entropy import Stream
from rarefy.native import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.codes.sparse import Sparse


class Dense(Code):
    """Elements as they are. `load` gives the raw array when it is wanted, so a file's tensors stay in the file."""

    KIND: ClassVar[int] = 0

    def __init__(self, load: Callable[[], NDArray[Any]], shape: Shape, dtype: DType) -> None:
        self._load = load
        self.shape = shape
        self.dtype = dtype

    @classmethod
    def of(cls, values: NDArray[Any], dtype: str = "F32") -> Dense:
        """A dense code of `values` (any real NumPy array), rounded to `dtype`."""
        kind = dtype_of(dtype)
        raw = values if values.dtype == kind.raw and kind.name != "BF16" else from_float32(values, kind)
        raw = np.array(raw, order="C")
        return cls(lambda: raw, raw.shape, kind)

    def raw(self) -> NDArray[Any]:
        """The elements' bits, in `dtype.raw`, shaped."""
        return self._load()

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        return free["values"]

    def free(self) -> dict[str, Array]:
        return {"values": to_float32(self.raw(), self.dtype)}

    def with_free(self, new: Mapping[str, Array]) -> Dense:
        raw = from_float32(np.asarray(new["values"], np.float32).reshape(self.shape), self.dtype)
        return Dense(lambda: raw, self.shape, self.dtype)

    def masked(self, keep: NDArray[np.bool_]) -> Sparse:
        from rarefy.codes.sparse import Sparse

        raw = np.where(keep, self.raw(), self.dtype.raw.type(0))
        return Sparse(keep, Dense(lambda: raw, self.shape, self.dtype))

    def settings(self) -> tuple[int, ...]:
        return (self.dtype.number,)

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        raw = self.raw()
        planes = _planes(raw if keep is None else raw[keep], self.dtype)
        for i, plane in enumerate(planes):
            yield Stream(f"plane{i}", plane)

    @staticmethod
    def _dtype(node: Node) -> DType:
        expect(len(node.settings) == 1 and node.settings[0] in BY_NUMBER, "a dense code names no known element type")
        expect(not node.children, "a dense code holds no other code")
        return BY_NUMBER[node.settings[0]]

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        return (f"plane{i}" for i in range(cls._dtype(node).size))

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Dense:
        dtype = cls._dtype(node)
        count = math.prod(shape) if keep is None else int(np.count_nonzero(keep))
        values = _join([source.next(count) for _ in range(dtype.size)], dtype)
        if keep is not None:
            raw = np.zeros(shape, dtype.raw)
            raw[keep] = values
        else:
            raw = values.reshape(shape)
        return cls(lambda: raw, shape, dtype)


def _planes(raw: NDArray[Any], dtype: DType) -> NDArray[np.uint8]:
    """Byte planes (width, n) of the elements, highest first, floats rotated left by one bit."""
    octets = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
    planes = np.empty((dtype.size, octets.size // dtype.size), np.uint8)
    _kernels.split_planes(octets, dtype.floating, planes)
    return planes


def _join(planes: list[NDArray[np.uint8]], dtype: DType) -> NDArray[Any]:
    """Elements from their byte planes: the inverse of `_planes`, flat."""
    octets = np.empty(planes[0].size * dtype.size, np.uint8)
    _kernels.join_planes(np.stack(planes), dtype.floating, octets)
    return octets.view(dtype.raw)
