"""Sparse: a support, and a code for what stands on it.

The support is written as one bit a weight, eight to a byte: the entropy coder then sees whole bytes, which costs H(p)
bits a weight at density p and log2 C(m, n) / m for n:m patterns with m = 2, 4 or 8, without a word about patterns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, names
from rarefy.codes.base import read as read_code
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


WORTH: Final = 0.95
"""A support must take off this much where zeros are on the grid: values without one are simpler to read."""


def supported(code: Code, keep: NDArray[np.bool_]) -> Code:
    """`code` with zeros outside `keep` (bool, its shape), under a support of their own where that is smaller.

    On a grid an unstructured support costs what zeros among the values do; an n:m pattern costs less.
    """
    masked = code.masked(keep)
    if isinstance(masked, Sparse):
        return masked
    apart = Sparse(keep, masked)
    return apart if apart.bits() < WORTH * masked.bits() else masked


class Sparse(Code):
    """Zeros outside `keep` (bool, the parameter's shape), `inner` on it."""

    KIND: ClassVar[int] = 2

    def __init__(self, keep: NDArray[np.bool_], inner: Code) -> None:
        self.keep, self.inner, self.shape = np.asarray(keep), inner, inner.shape

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        dense = self.inner.rebuild(free)
        if isinstance(dense, np.ndarray):
            return np.where(self.keep, dense, np.float32(0))
        return dense.where(dense.new_tensor(self.keep).bool(), dense.new_zeros(()))

    def free(self) -> dict[str, Array]:
        return self.inner.free()

    def with_free(self, new: Mapping[str, Array]) -> Sparse:
        return Sparse(self.keep, self.inner.with_free(new))

    def masked(self, keep: NDArray[np.bool_]) -> Sparse:
        both, inner = self.keep & keep, self.inner
        while isinstance(inner, Sparse):  # one support costs less than two
            both, inner = both & inner.keep, inner.inner
        return Sparse(both, inner)

    def support(self) -> NDArray[np.bool_]:
        return self.keep

    def settings(self) -> tuple[int, ...]:
        return ()

    def children(self) -> tuple[Code, ...]:
        return (self.inner,)

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        yield Stream("support", np.packbits(self.keep.reshape(-1), bitorder="little"))
        yield from self.inner.streams(self.keep if keep is None else self.keep & keep)

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        expect(not node.settings and len(node.children) == 1, "a sparse code holds one other code and no settings")
        yield "support"
        yield from names(node.children[0])

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Sparse:
        expect(not node.settings and len(node.children) == 1, "a sparse code holds one other code and no settings")
        count = math.prod(shape)
        packed = source.next(-(-count // 8))
        own = np.unpackbits(packed, count=count, bitorder="little").astype(bool).reshape(shape)
        return cls(own, read_code(shape, node.children[0], source, own if keep is None else own & keep))
