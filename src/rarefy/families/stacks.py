"""Networks whose blocks stand in a list: every decoder, encoder and vision transformer, whoever wrote it.

Nothing is known of an architecture beforehand. The list is found in the module, the blocks' arguments come from the
real forward, and `Segments.probe` proves that the blocks feed one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rarefy.families.base import Law
from rarefy.families.values import NotAChain

if TYPE_CHECKING:
    from torch import nn

MAJOR = 1 / 8
"""A list that holds less of the weights belongs to what runs before or after the blocks."""


class Stacks:
    ORDER: ClassVar[int] = 2

    def matches(self, module: nn.Module) -> bool:
        return hasattr(module, "config") or bool(stacks(module))

    def name(self, module: nn.Module) -> str:
        return getattr(getattr(module, "config", None), "model_type", None) or type(module).__name__

    def blocks(self, module: nn.Module) -> list[list[str]]:
        found = stacks(module)
        both = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        if len(found) not in (1, 2 if both else 1):
            raise NotAChain(f"it has {len(found) or 'no'} stacks of blocks{' beside one another' if found else ''}")
        return [[f"{path}.{name}" for name, _ in module.get_submodule(path).named_children()] for path in found]

    def law(self, module: nn.Module) -> Law:
        kind = type(module).__name__
        # T5's and Whisper's heads are not beside a base model.
        headless = getattr(module, "base_model", None) is module and "For" not in kind
        if headless or kind.endswith("WithProjection"):
            return "embedding"
        return (
            "gaussian" if getattr(getattr(module, "config", None), "problem_type", None) == "regression" else "softmax"
        )


def stacks(module: nn.Module) -> list[str]:
    """Paths of the outermost lists of at least two blocks with weights, where these hold a part worth speaking of."""
    from torch import nn

    least = MAJOR * _weights(module)
    found: list[str] = []
    for path, layer in module.named_modules():
        if not isinstance(layer, nn.ModuleList | nn.Sequential) or any(path.startswith(f"{one}.") for one in found):
            continue
        blocks = list(layer.children())
        if path and len(blocks) >= 2 and all(map(_weights, blocks)) and _weights(layer) >= least:
            found.append(path)
    return found


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


FAMILY = Stacks()
