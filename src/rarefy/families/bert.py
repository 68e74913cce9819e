"""BERT and its kin: encoder layers in a row; sentence encoders are BERTs without a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rarefy.families.base import Law

if TYPE_CHECKING:
    from torch import nn

KIN = {"bert", "roberta", "xlm-roberta", "electra", "camembert"}


class Bert:
    NAME: ClassVar[str] = "bert"

    def matches(self, module: nn.Module) -> bool:
        return getattr(getattr(module, "config", None), "model_type", None) in KIN

    def blocks(self, module: nn.Module) -> list[str]:
        base = module.base_model
        prefix = f"{module.base_model_prefix}." if base is not module else ""
        return [f"{prefix}encoder.layer.{i}" for i in range(len(base.encoder.layer))]  # type: ignore[union-attr,arg-type]

    def law(self, module: nn.Module) -> Law:
        return "softmax" if module.base_model is not module else "embedding"


FAMILY = Bert()
