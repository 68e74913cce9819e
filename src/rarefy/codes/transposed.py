"""Transposed: a matrix coded the other way round than its parameter lies.

Methods and codes see (out, in). Where a layer multiplies from the left and its file holds (in, out), as GPT-2's does,
this turns what they made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, names
from rarefy.codes.base import read as read_code
from rarefy.codes.difference import Difference
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


class Transposed(Code):
    """The transpose of `inner`, a code of a matrix."""

    KIND: ClassVar[int] = 9

    def __init__(self, inner: Code) -> None:
        self.inner, self.shape = inner, inner.shape[::-1]

    def decode(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.inner.decode().T)

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        return self.inner.rebuild(free).T

    def free(self) -> dict[str, Array]:
        return self.inner.free()

    def with_free(self, new: Mapping[str, Array]) -> Transposed:
        return Transposed(self.inner.with_free(new))

    def masked(self, keep: NDArray[np.bool_]) -> Transposed:
        return Transposed(self.inner.masked(keep.T))

    def support(self) -> NDArray[np.bool_] | None:
        support = self.inner.support()
        return None if support is None else support.T

    def settings(self) -> tuple[int, ...]:
        return ()

    def children(self) -> tuple[Code, ...]:
        return (self.inner,)

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        return self.inner.streams(None if keep is None else keep.T)

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        expect(not node.settings and len(node.children) == 1, "a transposed code holds one other code and no settings")
        inner = node.children[0].kind
        expect(inner not in (Transposed.KIND, Difference.KIND), "a transposed code holds a code that it may not hold")
        return names(node.children[0])

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Transposed:
        expect(len(shape) == 2, "a transposed code is of a matrix")
        return cls(read_code(shape[::-1], node.children[0], source, None if keep is None else keep.T))


def turned(code: Code) -> Code:
    """The transpose of a code of a matrix: what is inside a transposed one, and the other way round."""
    return code.inner if isinstance(code, Transposed) else Transposed(code)
