"""Sum: a code, and a correction of low rank that is added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes.base import Array, Code, Node, Shape, Source, expect, free_in, free_of, names
from rarefy.codes.base import read as read_code
from rarefy.codes.difference import Difference
from rarefy.codes.factored import Factored
from rarefy.entropy import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.codes.sparse import Sparse


class Sum(Code):
    """base + added, in float32. base: any code that holds no sum and no difference; its zeros are none of the sum's."""

    KIND: ClassVar[int] = 6

    def __init__(self, base: Code, added: Factored) -> None:
        self.base, self.added, self.shape = base, added, base.shape

    def decode(self) -> NDArray[np.float32]:
        values = self.base.decode()
        with np.errstate(over="ignore", invalid="ignore"):
            return values + self.added.decode()

    def rebuild(self, free: Mapping[str, Array]) -> Array:
        base, added = self.base.rebuild(free_in(free, "base")), self.added.rebuild(free_in(free, "added"))
        with np.errstate(over="ignore", invalid="ignore"):
            return base + added

    def free(self) -> dict[str, Array]:
        return free_of({"base": self.base, "added": self.added})

    def with_free(self, new: Mapping[str, Array]) -> Sum:
        return Sum(self.base.with_free(free_in(new, "base")), self.added.with_free(free_in(new, "added")))

    def masked(self, keep: NDArray[np.bool_]) -> Sparse:
        from rarefy.codes.sparse import Sparse

        return Sparse(keep, self)

    def settings(self) -> tuple[int, ...]:
        return ()

    def children(self) -> tuple[Code, ...]:
        return self.base, self.added

    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        yield from self.base.streams(keep)
        yield from self.added.streams(keep)

    @classmethod
    def names(cls, node: Node) -> Iterator[str]:
        expect(not node.settings and len(node.children) == 2, "a sum holds two other codes and no settings")
        base, added = node.children
        # Sums inside sums would each be a tensor in memory.
        expect(added.kind == Factored.KIND and adds_to(base), "a sum is of other codes than it may be")
        yield from names(base, "base")
        yield from names(added, "added")

    @classmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Sum:
        base = read_code(shape, node.children[0], source, keep)
        added = read_code(shape, node.children[1], source, keep)
        assert isinstance(added, Factored)
        return cls(base, added)


def adds_to(node: Node) -> bool:
    """Whether a code of this node may be the base of a sum."""
    return node.kind not in (Sum.KIND, Difference.KIND) and all(map(adds_to, node.children))
