"""A coded network of which what its codes leave free can move, whole in memory.

A weight on a separable grid is row scale x integer x column scale, so a layer is y = rows * (L (columns * x)): its
matrix of integers never changes, takes 2 bytes a weight in bfloat16, and has no gradient. Other codes are rebuilt from
their free values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from rarefy.codes import Code
from rarefy.codes.base import matrix
from rarefy.codes.separable import Separable
from rarefy.families import places
from rarefy.families.values import model_inputs, to_device
from rarefy.model import Model, decoded
from rarefy.training.free import Leaf, inside, leaves_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class Student:
    """A network to run and to train.

    free: file key -> part -> leaf.
    """

    def __init__(self, model: Model, device: str, dtype: torch.dtype, *, whole: bool = False) -> None:
        """dtype: of matrices that stay as they are; free values, and what is made of them, are float32. whole: also
        what a short training leaves alone moves (`leaves_of`)."""
        self.model, self.device = model, device
        self.module = model.built()
        self.free: dict[str, dict[str, Leaf]] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._rebuilt: dict[str, tuple[Code, list[str]]] = {}
        scaled = self._scaled()
        names: dict[str, list[str]] = {}
        for name, key in model.keys.items():
            names.setdefault(key, []).append(name)
        for key in names:
            code = model.codes[key]
            self.free[key] = {} if model.is_buffer(key) else leaves_of(code, device, whole=whole)
            if key in scaled:
                self._replace(scaled[key], code, self.free[key], dtype)
            elif self.free[key]:
                self._rebuilt[key] = code, names[key]
            else:
                value = decoded(code, device, None)
                value = value.to(dtype) if value.dim() > 1 and value.is_floating_point() else value
                self._fixed.update((name, value) for name in names[key])

    def leaves(self) -> dict[str, torch.Tensor]:
        """Every leaf by a name of its own."""
        return {f"{key} {part}": leaf.leaf for key, parts in self.free.items() for part, leaf in parts.items()}

    def __call__(self, batch: torch.Tensor) -> Any:
        """What the network gives for a micro-batch of inputs."""
        tensors = dict(self._fixed)
        for key, (code, names) in self._rebuilt.items():
            value = code.rebuild({part: leaf.value() for part, leaf in self.free[key].items()})
            tensors.update((name, value) for name in names)
        args, kwargs = to_device(model_inputs(self.module, batch), self.device)
        return functional_call(self.module, tensors, args, kwargs, tie_weights=True, strict=False)

    def codes(self) -> dict[str, Code]:
        """The codes whose free values moved, rounded as they are stored."""
        made = {}
        for key, parts in self.free.items():
            if any(bool(leaf.leaf.any()) for leaf in parts.values()):
                code = self.model.codes[key]
                new = {part: leaf.value().detach().cpu().numpy() for part, leaf in parts.items()}
                made[key] = code.with_free({**code.free(), **new})
        return made

    def adopt(self, codes: Mapping[str, Code]) -> None:
        """Take over what these codes leave free; what they do not hold goes back to where it was."""
        for key, parts in self.free.items():
            free = codes.get(key, self.model.codes[key]).free() if parts else {}
            for part, leaf in parts.items():
                leaf.adopt(torch.tensor(free[part], dtype=torch.float32))

    def _scaled(self) -> dict[str, list[str]]:
        """Keys of matrices on separable grids that only plain linear and embedding layers use, and these layers."""
        keys, find = self.model.keys, self.module.get_submodule
        return {
            keys[place.parameter]: list(place.modules)
            for place in places(self.module, self.model.skeleton.ties)
            if all(type(find(path)) in (nn.Linear, nn.Embedding) for path in place.modules)
            and isinstance(inside(self.model.codes[keys[place.parameter]]), Separable)
        }

    def _replace(self, paths: list[str], code: Code, free: Mapping[str, Leaf], dtype: torch.dtype) -> None:
        out, columns = matrix(code.shape)
        ones = {"rows": np.ones(out, np.float32), "columns": np.ones(columns, np.float32)}
        levels = torch.from_numpy(code.rebuild({**code.free(), **ones}).reshape(out, columns)).to(self.device, dtype)
        for path in paths:
            layer = self.module.get_submodule(path)
            made = _linear if isinstance(layer, nn.Linear) else _embedding
            layer.__dict__["forward"] = made(layer, levels, free["rows"], free["columns"])


def _linear(layer: nn.Module, levels: torch.Tensor, rows: Leaf, columns: Leaf) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = Scaled.apply(x, levels, rows.value(), columns.value())  # type: ignore[no-untyped-call]
        bias = layer._parameters.get("bias")
        return y if bias is None else y + bias.to(y.dtype)

    return forward


def _embedding(_: nn.Module, levels: torch.Tensor, rows: Leaf, columns: Leaf) -> Any:
    def forward(ids: torch.Tensor) -> torch.Tensor:
        return levels[ids].float() * rows.value()[ids][..., None] * columns.value()

    return forward


class Scaled(torch.autograd.Function):
    """y = rows * (L (columns * x)) for x (..., in), L (out, in), in the type of L; gradients to x, rows, columns.

    Written out since autograd would keep three more arrays of a layer's size, and sum each in its own pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, levels: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        inputs = x.reshape(-1, x.shape[-1]).to(levels.dtype)
        rows, columns = rows.to(levels.dtype), columns.to(levels.dtype)
        z = (inputs * columns) @ levels.T
        ctx.save_for_backward(inputs, z, levels, rows, columns)
        ctx.like = x.dtype, x.shape
        return (z * rows).reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, z, levels, rows, columns = ctx.saved_tensors
        dtype, shape = ctx.like
        y = gradients[0].reshape(z.shape).to(levels.dtype)
        into = (y * rows) @ levels
        of_rows = (y * z).sum(0, dtype=torch.float32)
        of_columns = (into * x).sum(0, dtype=torch.float32)
        return (into * columns).reshape(shape).to(dtype), None, of_rows, of_columns
