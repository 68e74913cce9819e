"""Where a network is cut: the blocks of each stack, and what runs before, between and after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rarefy.families.base import Place, family_of, places
from rarefy.families.values import NotAChain

if TYPE_CHECKING:
    from rarefy.model import Model


class Layout:
    """A network's segments, as its family names them.

    stacks: paths of the blocks of each stack; none where the network is one segment.
    reason: why it is, or "".
    """

    def __init__(self, model: Model) -> None:
        self.module = model.built()
        self.ties = model.skeleton.ties
        family = family_of(self.module)
        self.family = family
        self.stacks: list[list[str]] = []
        self.reason = ""
        self._ran: list[frozenset[str]] = []  # of what comes before and between the stacks, once it is known
        try:
            if family is None:
                raise NotAChain(f"no family knows {type(self.module).__name__}")
            self.stacks = family.blocks(self.module)
            if any(len(stack) < 2 for stack in self.stacks):
                raise NotAChain("it has fewer than two blocks")
        except NotAChain as error:
            self.one_segment(str(error))

    def one_segment(self, reason: str) -> None:
        """Treat the whole network as one segment."""
        self.stacks, self.reason = [], reason

    @property
    def blocks(self) -> list[str]:
        """Paths of all blocks, in order of execution."""
        return [block for stack in self.stacks for block in stack]

    @property
    def layout(self) -> list[str | None]:
        """Of each segment the block that it is; None: what runs before, between or after the stacks."""
        layout: list[str | None] = []
        for stack in self.stacks:
            layout += [None, *stack]
        return [*layout, None]

    @property
    def names(self) -> list[str]:
        if not self.stacks:
            return ["the whole network"]
        around = iter(["input", *["between"] * (len(self.stacks) - 1), "output"])
        return [next(around) if block is None else block for block in self.layout]

    def __len__(self) -> int:
        return len(self.layout)

    def index_of(self, path: str) -> int:
        """The segment that runs the module at `path`."""
        layout = self.layout
        for i, block in enumerate(layout):
            if block is not None and (path == block or path.startswith(block + ".")):
                return i
        around = [i for i, block in enumerate(layout) if block is None]
        return next((i for i, ran in zip(around, self._ran, strict=False) if path in ran), around[-1])

    def places(self) -> list[list[Place]]:
        """The sites of each segment. A tied parameter belongs to the first segment that uses it."""
        found: list[list[Place]] = [[] for _ in range(len(self))]
        for place in places(self.module, self.ties):
            found[min(self.index_of(path) for path in place.modules)].append(place)
        return found

    def tensor_names(self, i: int) -> list[str]:
        """Module names of the tensors that segment `i` needs."""
        every, block = list(self.module.state_dict(keep_vars=True)), self.layout[i]
        if block is not None:
            return [name for name in every if name.startswith(block + ".")]
        if i < len(self) - 1:
            return [name for name in every if any(name.rpartition(".")[0] in ran for ran in self._ran)]
        return [name for name in every if not any(name.startswith(block + ".") for block in self.blocks)]
