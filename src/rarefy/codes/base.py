"""The contract of a code, and how a file's tree of codes becomes one again."""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from rarefy.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.entropy import Stream

Array = Any
"""A NumPy array or a torch tensor: `rebuild` is the same maths on both."""

Shape = tuple[int, ...]


def matrix(shape: Shape) -> tuple[int, int]:
    """The matrix view (out, in) of a parameter: first dimension x the rest; vectors and scalars are one row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


@dataclass(frozen=True)
class Node:
    """A code's place in a record's head: its kind, its settings, the codes inside it."""

    kind: int
    settings: tuple[int, ...]
    children: tuple[Node, ...] = ()


class Source(Protocol):
    """Hands out a record's streams in the order in which `Code.streams` gave them."""

    def next(self, count: int, given: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The next stream's symbols, with the side information that it was written with: uint8 (count,).

        Raises FormatError when the file has another number of them than `count`.
        """
        ...


class Code(ABC):
    """How one tensor is stored: immutable, decodes to an array, knows its rate.

    shape: of the parameter; codes work on its matrix view (out, in).
    """

    KIND: ClassVar[int]
    shape: Shape

    def decode(self) -> NDArray[np.float32]:
        """The tensor, float32, in `shape`; equal to rebuild(free())."""
        return np.asarray(self.rebuild(self.free()), np.float32)

    @abstractmethod
    def rebuild(self, free: Mapping[str, Array]) -> Array:
        """The tensor from its free values, differentiable in them when they are torch tensors."""

    @abstractmethod
    def free(self) -> dict[str, Array]:
        """What training may still move (values, scales), float32."""

    @abstractmethod
    def with_free(self, new: Mapping[str, Array]) -> Code:
        """The same code with other free values, rounded to the precision they are stored in."""

    @abstractmethod
    def masked(self, keep: NDArray[np.bool_]) -> Code:
        """The same code with zeros where `keep` (bool, in `shape`) is false."""

    def support(self) -> NDArray[np.bool_] | None:
        """Where the tensor may differ from zero (bool, in `shape`), or None when anywhere."""
        return None

    @abstractmethod
    def settings(self) -> tuple[int, ...]:
        """The non-negative integers that a reader needs besides shape and streams."""

    def children(self) -> tuple[Code, ...]:
        """The codes inside this one."""
        return ()

    @abstractmethod
    def streams(self, keep: NDArray[np.bool_] | None = None) -> Iterator[Stream]:
        """Byte symbols, the children's included. With `keep`, weights outside it are known to be zero and left out."""

    @classmethod
    @abstractmethod
    def names(cls, node: Node) -> Iterator[str]:
        """What reports call the streams of a code with this node, in their order. Raises FormatError as `read`."""

    @classmethod
    @abstractmethod
    def read(cls, shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Code:
        """The code back from its node and streams. Raises FormatError when they do not fit together."""

    def bits(self) -> float:
        """Estimated rate in bits (the true one is known when the file exists)."""
        return sum(stream.bits() for stream in self.streams())

    def node(self) -> Node:
        """This code's tree, as a record's head holds it."""
        return Node(self.KIND, self.settings(), tuple(child.node() for child in self.children()))


@functools.cache
def kinds() -> dict[int, type[Code]]:
    """Every code of this room by its number in files."""
    from rarefy import codes

    found: dict[int, type[Code]] = {}
    for info in pkgutil.iter_modules(codes.__path__):
        module = importlib.import_module(f"rarefy.codes.{info.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, Code) and value.__module__ == module.__name__
            if own and "KIND" in vars(value):
                found[value.KIND] = value
    return found


def names(node: Node, inside: str = "") -> Iterator[str]:
    """What reports call the streams of the tree `node`, each after `inside`, a dot between."""
    for name in kind_of(node).names(node):
        yield f"{inside}.{name}" if inside else name


def free_of(parts: Mapping[str, Code]) -> dict[str, Array]:
    """What several codes leave free, each name after that of its code, a dot between."""
    return {f"{part}.{name}": value for part, code in parts.items() for name, value in code.free().items()}


def free_in(free: Mapping[str, Array], part: str) -> dict[str, Array]:
    """Of the free values of several codes, those of one."""
    return {name.removeprefix(f"{part}."): value for name, value in free.items() if name.startswith(f"{part}.")}


def kind_of(node: Node) -> type[Code]:
    """The class of a node's code. Raises FormatError for a kind this version does not know."""
    kind = kinds().get(node.kind)
    if kind is None:
        raise FormatError(f"code kind {node.kind} is not known to this version", remedy="open it with a newer rarefy")
    return kind


def read(shape: Shape, node: Node, source: Source, keep: NDArray[np.bool_] | None = None) -> Code:
    """The code that `node` describes. Raises FormatError for a kind this version does not know."""
    return kind_of(node).read(shape, node, source, keep)


def expect(condition: bool, what: str) -> None:
    """Raise FormatError(what) unless `condition`: for readers."""
    if not condition:
        raise FormatError(what)
