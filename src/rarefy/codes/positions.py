"""Positions: a support as distances between the weights on it (Han, Mao and Dally, "Deep Compression", ICLR 2016,
section 2), and a code for these.

Where few weights are left and long runs are empty, a gap in a byte takes fewer bits under a static code than the bit
plane of `sparse`, whose bytes say nothing of runs. The paper's gaps have 3 to 5 bits and pass over a longer run by a
weight that is zero; under an entropy coder a byte costs no more than they do, and 255 alone says "none here".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from rarefy.codes.base import Node, Shape, Source, expect, names
from rarefy.codes.base import read as read_code
from rarefy.codes.sparse import Sparse
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.codes.base import Array

PASS: Final = 255
"""The gap that passes over so many zeros and stands at no weight."""


class Positions(Sparse):
    """Zeros outside `keep` (bool, the parameter's shape), `inner` on it; other bytes than `Sparse`, the same values."""

    KIND: ClassVar[int] = 10

    def with_free(self, new: Mapping[str, Array]) -> Positions:
        return Positions(self.keep, self.inner.with_free(new))

    def masked(self, keep: NDArray[np.bool_]) -> Positions:
        made = super().masked(keep)
        return Positions(made.keep, made.inner)

    def settings(self) -> tuple[int, ...]:
        return (gaps(self.keep).size,)

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        yield Stream("gaps", gaps(self.keep))
        yield from self.inner.streams(self.keep if keep is None else self.keep & keep)

    @staticmethod
    def _settings(node: Node) -> int:
        expect(len(node.settings) == 1 and len(node.children) == 1, "positions have one setting and one code inside")
        return node.settings[0]

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        cls._settings(node)
        yield "gaps"
        yield from names(node.children[0])

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Positions:
        count, size = cls._settings(node), math.prod(shape)
        expect(count <= size, "there are more gaps than weights")
        steps = source.next(count)
        inside = steps < PASS
        at = np.cumsum(steps + inside.astype(np.int64)) - 1
        expect(count == 0 or bool(inside[-1] and at[-1] < size), "the gaps between weights lead past the last one")
        own = np.zeros(size, bool)
        own[at[inside]] = True
        own = own.reshape(shape)
        return cls(own, read_code(shape, node.children[0], source, own if keep is None else own & keep))


def gaps(keep: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """How many zeros stand before each weight that is kept, after the one before it, in row-major order: uint8, a run
    of 255 or more as so many PASS and the rest. Zeros after the last weight are not said."""
    runs = np.diff(np.flatnonzero(keep), prepend=-1) - 1
    passed = runs // PASS
    found = np.full(int(passed.sum()) + runs.size, PASS, np.uint8)
    found[np.cumsum(passed + 1) - 1] = runs % PASS
    return found
