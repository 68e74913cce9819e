"""Experts as their files have them: a matrix each, where transformers fuses those of a layer into two 3-D parameters.

Only matrices have second moments, and only an expert by itself has inputs of its own. So a network whose files hold
its experts one by one is built that way, whatever transformers makes of them on loading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor


class Experts(nn.Module):
    """The gated experts of a layer: down(act(gate x) * up x), weighted by the router, summed over the chosen ones."""

    act_fn: Any

    def __init__(self, fused: Any, gate: str, up: str, down: str) -> None:
        """fused: the module that holds them as 3-D parameters. gate, up, down: what each matrix is called."""
        super().__init__()
        self.__dict__["act_fn"] = fused.act_fn  # not among the children, which are experts
        self.names = (gate, up, down)
        count, outputs, inner = fused.down_proj.shape
        shapes = {gate: (outputs, inner), up: (outputs, inner), down: (inner, outputs)}
        for e in range(count):
            expert = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})
            self.add_module(str(e), expert.to(fused.down_proj.dtype))

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """x: (tokens, width). chosen, weights: (tokens, k). Returns (tokens, width)."""
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.children()):
            gate, up, down = (expert.get_submodule(name) for name in self.names)
            tokens, place = _routed(chosen, e, len(self._modules))
            if not len(tokens):
                continue
            inputs = x[tokens]
            made = down(self.act_fn(gate(inputs)) * up(inputs)) * weights[tokens, place, None]
            out.index_add_(0, tokens, made.to(out.dtype))
        return out


def _routed(chosen: torch.Tensor, e: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens expert `e` of `count` is to see, and in which of their k places it stands."""
    if not isinstance(chosen, FakeTensor):
        tokens, place = torch.where(chosen == e)
        return tokens, place
    # Where only shapes are known, as when memory is foreseen, an even share.
    each = -(-chosen.numel() // count)
    return torch.arange(each) % len(chosen), torch.zeros(each, dtype=torch.int64)


def take_apart(network: nn.Module) -> None:
    """Replace fused experts by single ones, under the names from which transformers' loader fuses them."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    parts: dict[str, list[str]] = {}
    for step in get_model_conversion_mapping(network):
        if isinstance(step, WeightConverter) and all(".experts.*." in f".{name}" for name in step.source_patterns):
            leaves = [name.partition("experts.*.")[2].removesuffix(".weight") for name in step.source_patterns]
            parts.setdefault(step.target_patterns[0].rpartition(".")[2], leaves)
    names = [*parts.get("gate_up_proj", ()), *parts.get("down_proj", ())]
    if len(names) != 3:
        return
    for path, module in list(network.named_modules()):
        if _plain(module):
            network.set_submodule(path, Experts(module, *names))


def _plain(module: nn.Module) -> bool:
    """Whether the experts fused in a module are gated in the common way."""
    tensors = {name: tensor.dim() for name, tensor in module.named_parameters(recurse=False)}
    common: dict[str, Any] = {"has_gate": True, "is_concatenated": True, "is_transposed": False}
    return (
        tensors == {"gate_up_proj": 3, "down_proj": 3}
        and all(getattr(module, flag, value) is value for flag, value in common.items())
        and getattr(type(module), "_apply_gate", None) in (None, _default_gate())
        and hasattr(module, "act_fn")
    )


def _default_gate() -> Any:
    from transformers.integrations import moe

    return getattr(moe, "_default_apply_gate", None)
