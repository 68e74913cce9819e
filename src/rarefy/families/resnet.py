"""ResNets: residual blocks in stages; transformers' own, and those whose stages are layer1, layer2, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rarefy.families.base import Law

if TYPE_CHECKING:
    from torch import nn


class ResNet:
    ORDER: ClassVar[int] = 0

    def matches(self, module: nn.Module) -> bool:
        if getattr(getattr(module, "config", None), "model_type", None) == "resnet":
            return True
        return bool(_stages(module))

    def name(self, module: nn.Module) -> str:
        return "resnet"

    def blocks(self, module: nn.Module) -> list[list[str]]:
        stages = _stages(module)
        if not stages:
            prefix = f"{module.base_model_prefix}." if module.base_model is not module else ""
            count = len(module.base_model.encoder.stages)  # type: ignore[union-attr,arg-type]
            stages = [f"{prefix}encoder.stages.{i}.layers" for i in range(count)]
        return [[f"{stage}.{i}" for stage in stages for i in range(len(module.get_submodule(stage)))]]  # type: ignore[arg-type]

    def law(self, module: nn.Module) -> Law:
        return "embedding" if getattr(module, "base_model", None) is module else "softmax"


def _stages(module: nn.Module) -> list[str]:
    """layer1, layer2, ... where these are nn.Sequential (torchvision's and most hand-written ResNets)."""
    from torch import nn

    stages: list[str] = []
    while isinstance(getattr(module, f"layer{len(stages) + 1}", None), nn.Sequential):
        stages.append(f"layer{len(stages) + 1}")
    return stages


FAMILY = ResNet()
