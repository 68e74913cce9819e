"""Layers that torch exports as the ONNX operators that read integers: what is packed is never restored on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from rarefy.codes import Grid
from rarefy.codes.transposed import Transposed
from rarefy.families.base import turns
from rarefy.model import decoded, retie

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.model import Model

GROUPS: Final = (16, 32, 64, 128, 256)
"""Inputs that may share a scale in MatMulNBits."""

INT8: Final = 4
"""The accuracy level at which MatMulNBits multiplies activations rounded to 8 bits."""


class Packed(nn.Module):
    """A matrix in groups, as MatMulNBits and GatherBlockQuantized lay it out.

    levels: uint8 (out, groups, group * bits / 8), the lower bits first; scales: (out, groups), in the type that they
    have; zeros: uint8, packed like the levels, rows of whole bytes, or None for 2^(bits - 1).
    """

    # Some networks ask a layer for its weight's type.
    weight = torch.empty(0)
    levels: Tensor
    scales: Tensor
    zeros: Tensor | None

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.bits, self.group = grid.bits_per_symbol, grid.group
        self.out, self.columns = grid.q.shape
        scales = decoded(grid.scale, "cpu", None)
        types = {"BF16": torch.bfloat16, "F16": torch.float16}
        self.register_buffer("scales", scales.to(types.get(grid.scale.dtype.name, torch.float32)))
        q = np.pad(grid.q, ((0, 0), (0, -self.columns % self.group)))
        self.register_buffer("levels", self._bytes(q.reshape(self.out, -1, self.group)))
        self.register_buffer("zeros", None if grid.zero is None else self._bytes(grid.zero))

    def _bytes(self, values: NDArray[np.uint8]) -> Tensor:
        if self.bits == 4:
            values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
            values = values[..., ::2] | values[..., 1::2] << np.uint8(4)
        return torch.from_numpy(np.ascontiguousarray(values))


class Product(nn.Module):
    """x W^T + b by MatMulNBits. rounds: multiply activations rounded to 8 bits in groups."""

    weight = Packed.weight
    bias: Tensor | None

    def __init__(self, packed: Packed, bias: Tensor | None, rounds: bool) -> None:
        super().__init__()
        self.packed, self.rounds = packed, rounds
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        p = self.packed
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, p.levels, p.scales.float(), p.zeros, None, self.bias),
            {"K": p.columns, "N": p.out, "bits": p.bits, "block_size": p.group}
            | {"accuracy_level": INT8 if self.rounds else 0},
            dtype=torch.float32,
            shape=(*x.shape[:-1], p.out),
            version=1,
        )


class Lookup(nn.Module):
    """Rows by GatherBlockQuantized. The columns are whole groups."""

    weight = Packed.weight

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, ids: Tensor) -> Tensor:
        p = self.packed
        return torch.onnx.ops.symbolic(
            "com.microsoft::GatherBlockQuantized",
            (p.levels.reshape(p.out, -1), ids, p.scales.float(), p.zeros),
            {"bits": p.bits, "block_size": p.group, "gather_axis": 0, "quantize_axis": 1},
            dtype=torch.float32,
            shape=(*ids.shape, p.columns),
            version=1,
        )


class Rows(nn.Module):
    """A matrix of signed 8-bit integers with one scale an output: (out, in) int8 and (out,) float32."""

    weight = Packed.weight
    levels: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, grid: Grid, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("levels", torch.from_numpy((grid.q.astype(np.int16) - 128).astype(np.int8)))
        self.register_buffer("scales", decoded(grid.scale, "cpu", None).reshape(-1))
        self.register_buffer("bias", bias)

    def restored(self, levels: Tensor, axis: int) -> Tensor:
        """The weights, by DequantizeLinear."""
        given = (levels, self.scales)
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", given, {"axis": axis}, dtype=torch.float32, shape=levels.shape
        )


class Linear(Rows):
    """x W^T + b. rounds: activations are rounded to 8 bits as they come, in the range that each tensor has."""

    def __init__(self, grid: Grid, bias: Tensor | None, rounds: bool) -> None:
        super().__init__(grid, bias)
        self.levels = self.levels.T.contiguous()
        self.rounds = rounds

    def forward(self, x: Tensor) -> Tensor:
        y = self._rounded(x) if self.rounds else x @ self.restored(self.levels, 1)
        return y if self.bias is None else y + self.bias

    def _rounded(self, x: Tensor) -> Tensor:
        q, scale, zero = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            (x,),
            dtypes=(torch.uint8, torch.float32, torch.uint8),
            shapes=(x.shape, (), ()),
        )
        shape = (*x.shape[:-1], len(self.scales))
        y = torch.onnx.ops.symbolic("MatMulInteger", (q, self.levels, zero), dtype=torch.int32, shape=shape)
        return y.float() * (scale * self.scales)


class Convolution(Rows):
    """A convolution with restored weights, so that a later pass may round what goes in and out."""

    def __init__(self, grid: Grid, layer: nn.Module, bias: Tensor | None) -> None:
        super().__init__(grid, bias)
        self.levels = self.levels.reshape(layer.get_parameter("weight").shape)
        self._run: Any = layer._conv_forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._run(x, self.restored(self.levels, 0), self.bias)
        return out


@dataclass(frozen=True)
class Matrix:
    """A matrix that is held in integers. paths: of the modules that use it. rows: one scale an output, signed."""

    paths: tuple[str, ...]
    rows: bool


def integers(model: Model, matrices: Mapping[str, Matrix], *, rounds: bool) -> nn.Module:
    """The network with a layer of this file wherever a matrix is held in integers.

    matrices: by file key. rounds: see `Product` and `Linear`.
    """
    module, keys = model.skeleton.build(), model.keys
    for key, matrix in matrices.items():
        grid = inner(model.codes[key])
        assert isinstance(grid, Grid)
        packed = None if matrix.rows else Packed(grid)
        for path in matrix.paths:
            bias = decoded(model.codes[keys[f"{path}.bias"]], "cpu", None) if f"{path}.bias" in keys else None
            module.set_submodule(path, _layer(module.get_submodule(path), grid, packed, bias, rounds))
    names = [name for name in module.state_dict(keep_vars=True) if name in keys]
    module.load_state_dict(model.tensors(names), assign=True, strict=False)
    ties = {alias: owner for alias, owner in model.skeleton.ties.items() if alias in names and owner in names}
    return retie(module, ties).eval()


def _layer(layer: nn.Module, grid: Grid, packed: Packed | None, bias: Tensor | None, rounds: bool) -> nn.Module:
    if isinstance(layer, nn.Embedding):
        assert packed is not None
        return Lookup(packed)
    if isinstance(layer, nn.Linear) or turns(layer):
        return Linear(grid, bias, rounds) if packed is None else Product(packed, bias, rounds)
    return Convolution(grid, layer, bias)


def inner(code: Code) -> Code:
    """A code as (out, in), of a layer that holds its weight the other way round."""
    return code.inner if isinstance(code, Transposed) else code
