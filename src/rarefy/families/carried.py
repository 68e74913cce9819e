"""What blocks hand on beside their hidden states: an encoder's states, a position bias that the first block made.

With the hidden states it is the running value: between segments one tensor, the several flattened in a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.families.values import NotAChain, has_nan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

MORE = "its blocks are given more than the running value of the one before"


@dataclass(frozen=True)
class Slot:
    """Stands among a block's arguments for a tensor of the running value."""

    index: int


@dataclass(frozen=True)
class Call:
    """What a block is called with beside the hidden states: slots, and what does not depend on weights.

    shapes: of the running value's tensors, where these are several.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[torch.Size, ...] = ()


@dataclass(frozen=True)
class Route:
    """How the running value goes through a block.

    slots: position among the leaves of its arguments -> index in the running value.
    sources: of each tensor that comes out, its position among the leaves of what the block returns or, negative, among
    the tensors that went in.
    """

    slots: tuple[tuple[int, int], ...] = ()
    sources: tuple[int, ...] = (0,)

    @property
    def width(self) -> int:
        """How many tensors go in."""
        return 1 + max((index for _, index in self.slots), default=0)

    def ending(self) -> Route:
        """The same of the last block: all that went in comes out."""
        return Route(self.slots, (0, *range(1 - self.width, 0)))

    def split(self, value: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Call]:
        """The tensors of the running value that a block is given, hidden states first, and the rest as a call. Raises
        NotAChain when something else stands where they should be."""
        import torch
        from torch.utils import _pytree as pytree

        if not self.slots:
            return [value], Call(args, kwargs)
        leaves, form = pytree.tree_flatten((args, kwargs))
        entering = [value] * self.width
        for position, index in self.slots:
            if position >= len(leaves) or not isinstance(leaves[position], torch.Tensor):
                raise NotAChain("its blocks are not called alike for every batch")
            entering[index], leaves[position] = leaves[position], Slot(index)
        args, kwargs = pytree.tree_unflatten(leaves, form)
        return entering, Call(args, kwargs, shapes(entering))

    def out(self, returned: Any, entered: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The running value after a block."""
        from torch.utils import _pytree as pytree

        leaves = pytree.tree_leaves(returned)
        return [leaves[source] if source >= 0 else entered[source] for source in self.sources]


def find(
    value: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[torch.Tensor], tuple[tuple[int, int], ...]]:
    """By their NaNs the tensors of the running value among what a block is given, hidden states first; their slots."""
    import torch
    from torch.utils import _pytree as pytree

    entering, found = [value], []
    for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
        if isinstance(leaf, torch.Tensor) and has_nan(leaf):
            index = place(leaf, entering)
            if index is None:
                index = len(entering)
                entering.append(leaf)
            found.append((position, index))
    return entering, tuple(found)


def sources(
    entering: Sequence[torch.Tensor], returned: Sequence[Any], entered: Sequence[torch.Tensor]
) -> tuple[int, ...]:
    """Where the tensors that enter a block come from: the leaves that the block before returned, or those that had
    entered it. Raises NotAChain when one is neither."""
    found = []
    for tensor in entering:
        source = place(tensor, returned)
        if source is None:
            source = place(tensor, entered)
            if source is None:
                raise NotAChain(MORE)
            source -= len(entered)
        found.append(source)
    return tuple(found)


def place(tensor: Any, among: Sequence[Any]) -> int | None:
    """Where the very same object stands."""
    return next((i for i, other in enumerate(among) if other is tensor), None)


def shapes(tensors: Sequence[torch.Tensor]) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in tensors)


def join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The running value as one tensor. Raises NotAChain when the tensors are not of one type."""
    import torch

    if len(tensors) == 1:
        return tensors[0]
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise NotAChain("its blocks hand on tensors of several types")
    return torch.cat([tensor.flatten() for tensor in tensors])


def part(value: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """The tensors of a running value."""
    if len(shapes) < 2:
        return [value]
    made, start = [], 0
    for shape in shapes:
        made.append(value.narrow(0, start, math.prod(shape)).view(shape))
        start += math.prod(shape)
    return made


def fill(call: Call, entering: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with the tensors in their slots."""
    from torch.utils import _pytree as pytree

    def put(leaf: Any) -> Any:
        return entering[leaf.index] if isinstance(leaf, Slot) else leaf

    args, kwargs = pytree.tree_map(put, (call.args, call.kwargs))
    return args, kwargs


def exchange(value: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Nested tuples, lists, dicts and model outputs with the second of each pair in the place of the first."""
    from torch.utils import _pytree as pytree

    new = {id(one): other for one, other in pairs}
    return pytree.tree_map(lambda leaf: new.get(id(leaf), leaf), value)
