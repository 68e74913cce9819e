"""What training the free values of a network will take in memory, found from shapes alone."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from rarefy.evidence.laws import output_law
from rarefy.families import family_of
from rarefy.families.values import model_inputs
from rarefy.model import shape_of

if TYPE_CHECKING:
    from rarefy.model import Model

BUILDING = 24
"""Bytes a weight of the largest matrix while its levels are made: integers, levels, signs, the same rounded."""

OUTPUTS = 5
"""Copies of a batch's outputs: the student's before and after the row scales, the original's likewise, the gradient."""

BESIDE = 80_000_000
"""Rows of outputs in float32 that a loss holds at once."""


def footprint(model: Model, batch: torch.Tensor, dtype: torch.dtype, device: str) -> int:
    """Bytes at the most: the student's weights and those of the original's last part (a head, taken to be the largest
    matrix), what a forward pass keeps for the backward one, outputs."""
    sizes = [math.prod(shape_of(model.codes, key)) for key in model.codes]
    largest = max(sizes, default=0)
    kept, outputs = _kept(model, batch, dtype, device)
    running = kept + OUTPUTS * outputs + BESIDE
    return dtype.itemsize * (sum(sizes) + largest) + max(running, BUILDING * largest)


def _kept(model: Model, batch: torch.Tensor, dtype: torch.dtype, device: str) -> tuple[int, int]:
    """Bytes that a micro-batch keeps for the backward pass, and those of the outputs."""
    module = model.built()
    held, family = module.state_dict(keep_vars=True), family_of(module)
    scaled, alive, storages = 0, [], dict[int, int]()
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no other storage gets its number
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    def see(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal scaled  # a layer of scales keeps its inputs and outputs, in the type it computes in
        scaled += dtype.itemsize * (args[0].numel() + out.numel())

    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(see)
    mixed = (
        torch.autocast(torch.device(device).type, torch.bfloat16)
        if dtype == torch.bfloat16
        else contextlib.nullcontext()
    )
    with mode, mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shapes = {key: shape_of(model.codes, key) for key in model.codes}
        # Vectors move, and make everything after them need a gradient; matrices do not.
        made = {
            key: torch.empty(shape, dtype=dtype if len(shape) > 1 else torch.float32, requires_grad=len(shape) == 1)
            for key, shape in shapes.items()
        }
        given = {name: made[key] for name, key in model.keys.items() if held[name].is_floating_point()}
        args, kwargs = model_inputs(module, mode.from_tensor(batch))
        out = functional_call(module, given, args, kwargs, tie_weights=True, strict=False)
        outputs = output_law(family.law(module) if family else "softmax").read(out).numel()
    for tensor in made.values():
        storages.pop(tensor.untyped_storage()._cdata, None)
    return sum(storages.values()) + scaled, outputs * dtype.itemsize
