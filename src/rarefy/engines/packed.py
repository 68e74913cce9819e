"""Packed networks: the weights of linear layers and lookups stay at 4 or 8 bits in memory."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rarefy import heap
from rarefy.codes import Dense
from rarefy.codes.transposed import turned
from rarefy.engines.packed_blocks import quicken
from rarefy.engines.packed_held import held
from rarefy.engines.packed_layers import PackedLinear
from rarefy.engines.packed_levels import levels
from rarefy.engines.packed_native import NativeEmbedding, PackedNative
from rarefy.engines.packed_torch import Packed4, Packed8, TorchEmbedding
from rarefy.model import decoded, retie
from rarefy.threads import quick_in

if TYPE_CHECKING:
    from rarefy.codes import Code
    from rarefy.engines.packed_held import Held
    from rarefy.model import Model

_log = logging.getLogger("rarefy")


def computing(device: str) -> torch.dtype:
    """The type that a packed network computes in: bfloat16, float32 on a processor that is slow in it."""
    slow = torch.device(device).type == "cpu" and not quick_in("bfloat16")
    return torch.float32 if slow else torch.bfloat16


def packed(model: Model, device: str = "cpu") -> nn.Module:
    """The network of `model` with its coded linear layers and lookups packed, the rest in the type of `computing`.

    Tensors are decoded, packed and dropped one by one: the dense network is never in memory. What was packed, how, and
    what stayed dense is said in one line of the log "rarefy" and kept as `Packing` in the module's `packing`.
    """
    module, keys = model.skeleton.build(), model.keys
    dtype = computing(device)
    packer = Packer(module, dtype)
    made: dict[str, torch.Tensor] = {}
    for name in module.state_dict(keep_vars=True):
        if name in model.skeleton.ties:
            continue
        code = model.codes[keys[name]]
        if not packer.take(name, code, device):
            made[name] = decoded(code, device, dtype)
    made |= {alias: made[owner] for alias, owner in model.skeleton.ties.items() if owner in made}
    module.load_state_dict(made, strict=False, assign=True)
    retie(module, {alias: owner for alias, owner in model.skeleton.ties.items() if owner in made})
    packer.install()
    return model.edited(module.to(device))


@dataclass(frozen=True)
class Packing:
    """What stands packed in a network. bytes: of all its tensors. kernels: kernel -> layers. dense: weights left so.

    error: squared error that packing added to the packed weights, relative to their energy, each layer alike.
    """

    bytes: int
    kernels: dict[str, int]
    dense: tuple[str, ...]
    error: float

    def __str__(self) -> str:
        kernels = ", ".join(f"{count} by {name}" for name, count in sorted(self.kernels.items()))
        dense = ""
        if self.dense:
            more = f" and {len(self.dense) - 3} more" if len(self.dense) > 3 else ""
            dense = f"; dense: {', '.join(self.dense[:3])}{more}"
        return (
            f"packed: {self.bytes / 1e6:.1f} MB in memory, layers: {kernels or 'none'}, "
            f"weights moved by {100 * self.error**0.5:.2f} %{dense}"
        )


class Packer:
    """Packs the weights of one module, in two steps: `take` each code, then `install` the layers."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype
        self.taken: dict[str, PackedLinear] = {}
        self.dense: list[str] = []
        self.parameters = dict(module.named_parameters(remove_duplicate=False))
        self.users = _users(module)

    def take(self, name: str, code: Code, device: str = "cpu", ready: Held | None = None) -> bool:
        """Pack `code` for the parameter `name` on `device`, if all layers that use it can be packed; else False.

        ready: `prepared` of it, if there is.
        """
        parameter = self.parameters.get(name)
        if parameter is None or parameter.dim() < 2:
            return False
        users = [user for _, user in self.users.get(id(parameter), [])]
        if isinstance(code, Dense) or not users or not all(map(_packable, users)):
            self.dense.append(name)
            return False
        if any(map(_turned, users)):
            code, ready = turned(code), None
        looked_up = any(isinstance(user, nn.Embedding) for user in users)
        self.taken[name] = _layer(code, device, looked_up, ready)
        return True

    def install(self) -> None:
        """Put the packed layers in the places of the dense ones, and say so. The biases must be there by now."""
        users = _users(self.module)
        for name, layer in self.taken.items():
            for path, user in users[id(self.module.get_parameter(name))]:
                self.module.set_submodule(path, _instead(user, layer, self.dtype))
        quicken(self.module.eval())
        heap.release()
        packing = self._packing()
        self.module.packing = packing  # type: ignore[assignment]  # nn.Module's attributes may be anything
        _log.warning("%s", packing)

    def _packing(self) -> Packing:
        layers = list(self.taken.values())
        tensors = [*self.module.parameters(), *self.module.buffers()]
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
        error = sum(layer.error for layer in layers) / max(len(layers), 1)
        kernels = Counter(f"{layer.kernel} at {layer.bits} bits" for layer in layers)
        return Packing(sum(unique.values()), dict(kernels), tuple(self.dense), error)


def _users(module: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """id of a parameter called weight -> the modules that have it, with their paths."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, child in module.named_modules():
        weight = child._parameters.get("weight")
        if weight is not None:
            users.setdefault(id(weight), []).append((path, child))
    return users


def _packable(user: nn.Module) -> bool:
    return type(user) in (nn.Linear, nn.Embedding) or _turned(user)


def _turned(user: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D, a linear layer whose weight is (in, out)."""
    return type(user).__name__ == "Conv1D" and hasattr(user, "nf")


def prepared(code: Code, dtype: torch.dtype) -> Held | None:
    """What a layer on a processor needs of a code, made before it is known whether a layer takes it."""
    return None if isinstance(code, Dense) or len(code.shape) != 2 else held(code)


def _layer(code: Code, device: str, looked_up: bool, ready: Held | None) -> PackedLinear:
    """The code of a matrix as a layer. looked_up: rows of it are. ready: what `prepared` made of it, if anything."""
    if torch.device(device).type == "cpu":
        return PackedNative(ready or held(code), *code.shape)
    found = levels(code, four=not looked_up)
    return (Packed4 if found.bits == 4 else Packed8)(found, code.shape[1], device)


def _instead(user: nn.Module, layer: PackedLinear, dtype: torch.dtype) -> nn.Module:
    if isinstance(user, nn.Embedding):
        return NativeEmbedding(layer, dtype) if isinstance(layer, PackedNative) else TorchEmbedding(layer, dtype)
    bias = user._parameters.get("bias")
    return layer if bias is None else layer.with_bias(bias.to(dtype))
