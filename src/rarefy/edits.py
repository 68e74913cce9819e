"""Edits: what happens to values at run time, kept beside the weights and active wherever the network runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn


@dataclass(frozen=True)
class QuantizedInput:
    """A layer's input on a symmetric grid of integers (Jacob et al. 2018, section 2).

    bits: of an integer.
    scale: of all inputs, found by calibration (static); None for the largest size of each token, of each example of a
        convolution, over 2^(bits - 1) - 1 (dynamic).
    """

    bits: int = 8
    scale: float | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x as the grid has it; gradients pass straight through (Bengio et al. 2013)."""
        import torch

        top = (1 << (self.bits - 1)) - 1
        with torch.no_grad():
            if self.scale is None:
                over = (1, 2, 3) if x.dim() == 4 else (-1,)
                scale = x.abs().amax(over, keepdim=True).float() / top
            else:
                scale = torch.full((), self.scale, device=x.device)
            q = (x / torch.where(scale > 0, scale, torch.ones_like(scale))).round().clamp(-top - 1, top)
            moved = (q * scale).to(x.dtype) - x
        return x + moved

    def to_json(self) -> dict[str, Any]:
        """As the manifest and config.json have it; `read` makes it an edit again."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, said: Any) -> QuantizedInput:
        """From a file. Raises FormatError."""
        bits, scale = (said["bits"], said["scale"]) if isinstance(said, dict) and said.keys() == _FIELDS else (0, None)
        static = isinstance(scale, float) and 0 < scale < float("inf")
        if not isinstance(bits, int) or not 2 <= bits <= 8 or not (scale is None or static):
            raise FormatError(f"{str(said)[:100]} is no edit", remedy="a newer rarefy may know it")
        return cls(bits, scale)


_FIELDS = {"bits", "scale"}

Edits = dict[str, QuantizedInput]
"""By file key of a weight: what is done to the inputs of the layers that multiply by it."""


def read(said: Any) -> Edits:
    """Edits from a file, none where it says nothing. Raises FormatError."""
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise FormatError("edits are no table")
    return {str(key): QuantizedInput.read(edit) for key, edit in said.items()}


def attach(module: nn.Module, edits: Mapping[str, QuantizedInput], body: str | None = None) -> nn.Module:
    """Have the layers of `module` do what `edits` say, by the names of their weights; embeddings look up, and do not.

    body: what names begin with, where `module` may be the body of the network that was edited, without its head, whose
        edits are then left out. Raises FormatError for a name that the network has not.
    """
    from torch import nn

    layers = dict(module.named_modules())
    for name, edit in edits.items():
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path)
        if layer is None and body is not None:
            layer = layers.get(path.removeprefix(f"{body}."))
            if layer is None:
                continue
        if layer is None or not (leaf in layer._parameters or hasattr(type(layer), leaf)):  # packed ones make it
            raise FormatError(f"an edit is of {name}, which the network has not")
        if not isinstance(layer, nn.Embedding):
            layer.register_forward_pre_hook(_Hook(edit), with_kwargs=True)
    return module


@dataclass(frozen=True)
class _Hook:
    """Applies an edit to a layer's input, wherever the caller put it."""

    edit: QuantizedInput

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (self.edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": self.edit(kwargs["input"])}
