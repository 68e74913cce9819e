"""Llama and its kin: decoder layers in a row under a tied or free head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rarefy.families.base import Law

if TYPE_CHECKING:
    from torch import nn

KIN = {"llama", "mistral", "qwen2", "qwen3", "smollm3"}


class Llama:
    NAME: ClassVar[str] = "llama"

    def matches(self, module: nn.Module) -> bool:
        return getattr(getattr(module, "config", None), "model_type", None) in KIN

    def blocks(self, module: nn.Module) -> list[str]:
        base = module.base_model
        prefix = f"{module.base_model_prefix}." if base is not module else ""
        return [f"{prefix}layers.{i}" for i in range(len(base.layers))]  # type: ignore[union-attr,arg-type]

    def law(self, module: nn.Module) -> Law:
        return "softmax" if module.base_model is not module else "embedding"


FAMILY = Llama()
