"""Difference: elements as what separates them from those of another checkpoint, bit for bit.

A fine-tune moves most weights by few units in the last place, many by none. Two ways to say so: XOR of the bit
patterns (Hershcovitch et al., "ZipNN: Lossless Compression for AI Models", 2024, section 4.3), where equal exponents
become zeros; and subtraction of the floats' positions in their order, where a step across a power of two stays small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect
from rarefy.codes.dtypes import BY_NUMBER, DType
from rarefy.entropy import Stream
from rarefy.errors import UsageError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Bits: TypeAlias = "NDArray[np.unsignedinteger[Any]]"
"""Bit patterns of elements, flat, as unsigned integers of their width."""

XOR: Final = 0
ORDER: Final = 1
RUN: Final = 1 << 18
"""Elements that are put in order together; part of the format."""

WAYS: Final = {XOR: "XOR of the bits", ORDER: "distance in order"}


class Difference(Code):
    """A tensor of a checkpoint as its difference from the one of the same name in a base checkpoint.

    bits: the difference, unsigned integers of the element's width, flat. Values need the base, which is elsewhere:
    everything that asks for them raises UsageError and says how to get them.
    """

    KIND: ClassVar[int] = 8

    def __init__(self, bits: Bits, shape: Shape, dtype: DType, way: int) -> None:
        self.bits_, self.shape, self.dtype, self.way = bits, shape, dtype, way

    @classmethod
    def of(cls, values: NDArray[Any], base: NDArray[Any], dtype: DType, way: int) -> Difference:
        """The difference of two arrays of raw elements of one shape."""
        return cls(apart(_flat(values, dtype), _flat(base, dtype), dtype, way), values.shape, dtype, way)

    def against(self, base: NDArray[Any]) -> NDArray[Any]:
        """The raw elements, when `base` holds those of the base."""
        return (
            together(self.bits_, _flat(base, self.dtype), self.dtype, self.way).view(self.dtype.raw).reshape(self.shape)
        )

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        raise _alone()

    def free(self) -> dict[str, Array]:
        raise _alone()

    def with_free(self, new: Mapping[str, Array]) -> Code:
        raise _alone()

    def masked(self, keep: NDArray[np.bool_]) -> Code:
        raise _alone()

    def settings(self) -> tuple[int, ...]:
        return self.dtype.number, self.way

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        if keep is not None:
            raise _alone()
        planes = np.empty((self.dtype.size, self.bits_.size), np.uint8)
        _kernels.split_planes(self.bits_.view(np.uint8), rotated(self.dtype, self.way), planes)
        for i, plane in enumerate(planes):
            yield Stream(f"plane{i}", plane)

    @staticmethod
    def parts(node: Node) -> tuple[DType, int]:
        """Element type and way of a node. Raises FormatError when it is none of a difference."""
        known = len(node.settings) == 2 and node.settings[0] in BY_NUMBER and node.settings[1] in WAYS
        expect(known, "a difference names no known element type and way")
        expect(not node.children, "a difference holds no other code")
        return BY_NUMBER[node.settings[0]], node.settings[1]

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        return (f"plane{i}" for i in range(cls.parts(node)[0].size))

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Difference:
        dtype, way = cls.parts(node)
        expect(keep is None, "a difference stands inside another code")
        planes = np.stack([source.next(math.prod(shape)) for _ in range(dtype.size)])
        bits = np.empty(planes.size, np.uint8)
        _kernels.join_planes(planes, rotated(dtype, way), bits)
        return cls(bits.view(f"<u{dtype.size}"), shape, dtype, way)


def rotated(dtype: DType, way: int | None = None) -> bool:
    """Whether elements (way None) or differences are rotated left by one bit before they are cut into planes."""
    return dtype.floating and way != ORDER


def apart(values: Bits, base: Bits, dtype: DType, way: int) -> Bits:
    """What separates bit patterns from those of a base.

    Runs of RUN floats stand sorted by exponent of the base, elements of one exponent as they were: what training
    moved by the same amount is then the same number of units in the last place for neighbours, and tiles adapt to it.
    """
    return _kernel(values, base, dtype, way, undo=False)


def together(bits: Bits, base: Bits, dtype: DType, way: int) -> Bits:
    """The inverse of `apart`: the bit patterns."""
    return _kernel(bits, base, dtype, way, undo=True)


def _kernel(values: Bits, base: Bits, dtype: DType, way: int, undo: bool) -> Bits:
    out = np.empty_like(values)
    _kernels.difference(
        values.view(np.uint8),
        base.view(np.uint8),
        dtype.size,
        dtype.exponent,
        dtype.mantissa,
        way == XOR,
        undo,
        out.view(np.uint8),
    )
    return out


def _flat(raw: NDArray[Any], dtype: DType) -> Bits:
    return np.ascontiguousarray(raw).reshape(-1).view(f"<u{dtype.size}")


def _alone() -> UsageError:
    return UsageError(
        "a weight is stored as its difference from another checkpoint",
        "its values cannot be known without that one",
        "restore it first: rarefy unpack OUT DIR --base DIR0",
    )
