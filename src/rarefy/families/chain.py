"""Plain chains: an nn.Sequential, a segment a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rarefy.families.base import Law

if TYPE_CHECKING:
    from torch import nn


class Chain:
    ORDER: ClassVar[int] = 1

    def matches(self, module: nn.Module) -> bool:
        from torch import nn

        return isinstance(module, nn.Sequential) and not hasattr(module, "config")

    def name(self, module: nn.Module) -> str:
        return "chain"

    def blocks(self, module: nn.Module) -> list[list[str]]:
        return [[name for name, _ in module.named_children()]]

    def law(self, module: nn.Module) -> Law:
        return "softmax"


FAMILY = Chain()
