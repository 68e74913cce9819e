"""Layers packed for a processor: rarefy's own kernels, which multiply a code's integers as they are."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import library

from rarefy.engines.packed_layers import PackedEmbedding, PackedLinear, Unsaved
from rarefy.errors import UsageError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from rarefy.engines.packed_held import Held

AT_ONCE: Final = 64
"""Rows of input up to which the kernels beat products with the restored matrix, in which torch is faster."""

ARRAYS: Final[dict[str, Any]] = {
    "packed": np.uint8,
    "table": np.uint8,
    "steps": np.float32,
    "scales": np.uint16,
    "shifts": np.int8,
    "first": np.uint32,
    "far": np.uint32,
    "index": np.uint32,
    "columns": np.float32,
}
"""The tensors of a layer, in the order in which the kernels are told of them, and the types they have there."""

SIGNED: Final[dict[Any, Any]] = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}
"""As torch keeps them, which cannot save these."""


class Native(Unsaved):
    """Has the tensors of `Held`, and the kernels' view of them."""

    shape: tuple[int, int, int, int, bool]
    """bits, in, digits, group, and whether scales are binary16"""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Raises IndexError for a row that there is not."""
        _, width, digits, *_ = self.shape
        if torch.compiler.is_compiling():
            found: torch.Tensor = _rows(ids, self.number, width)
            return found
        rows = torch.empty(len(ids), digits)
        self.matrix.look_up(ids.contiguous().numpy(), rows.numpy())
        return self._plain(rows, width)

    @property
    def matrix(self) -> _kernels.PackedMatrix:
        found: _kernels.PackedMatrix | None = self.__dict__.get("_matrix")
        if found is None:
            tensors = {name: self._held(name) for name in ARRAYS}
            arrays: list[Any] = [None if t is None else t.numpy().view(ARRAYS[name]) for name, t in tensors.items()]
            found = self.__dict__["_matrix"] = _kernels.PackedMatrix(*self.shape, *arrays)
        return found

    def enlist(self) -> None:
        """Take a number, by which operations in a compiled graph know the layer."""
        self.number = next(_numbers)
        _layers[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own view, of its own tensors."""
        return {name: value for name, value in self.__dict__.items() if name != "_matrix"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.enlist()


class PackedNative(Native, PackedLinear):
    """On a processor. Weights without groups are the code's very own, but for those at 8 bits."""

    kernel = "rarefy's kernel"
    types = (torch.float32, torch.bfloat16)

    def __init__(self, found: Held, out: int, columns: int) -> None:
        PackedLinear.__init__(self, out, columns, found.bits, found.error)
        self.shape = found.bits, columns, found.digits, found.group, found.binary16
        for name in ARRAYS:
            array = found.arrays.get(name)
            kept = None if array is None else torch.from_numpy(array.view(SIGNED.get(array.dtype, array.dtype)))
            self.register_buffer(name, kept, persistent=False)
        self.enlist()

    def product(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            found: torch.Tensor = _product(x, self.number, self.out_features)
            return found
        if not x.is_cpu:
            raise UsageError("this network is packed for a processor", f"its input is on {x.device}", "pack it there")
        n = x.numel() // self.in_features
        if n > AT_ONCE:
            return self._many(self._prepared(x.reshape(n, -1))).view(*x.shape[:-1], self.out_features)
        return beside([self], x, n)

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        rows = torch.empty(stop - start, self.shape[2])
        self.matrix.restore(start, rows.numpy())
        return rows


def beside(layers: list[PackedNative], x: torch.Tensor, n: int) -> torch.Tensor:
    """The products of n inputs (..., in), in one of `types`, with matrices that all read them: (..., sum of out)."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], sum([layer.out_features for layer in layers]))
    matrices = [layer.matrix for layer in layers]
    _kernels.multiply(matrices, x.data_ptr(), n, y.data_ptr(), x.dtype is torch.bfloat16)
    return y


class NativeEmbedding(Native, PackedEmbedding):
    """Of what `PackedNative` holds."""

    def __init__(self, table: PackedNative, dtype: torch.dtype) -> None:
        PackedEmbedding.__init__(self, table, dtype)
        self.shape = table.shape
        self.enlist()


_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


@library.custom_op("rarefy::product", mutates_args=())
def _product(x: torch.Tensor, number: int, out: int) -> torch.Tensor:
    """`product` of the layer with this number, which has so many outputs, as an operation of a compiled graph."""
    found: torch.Tensor = _layers[number].product(x)
    return found


@library.custom_op("rarefy::rows", mutates_args=())
def _rows(ids: torch.Tensor, number: int, width: int) -> torch.Tensor:
    """`rows` likewise, of so many inputs."""
    found: torch.Tensor = _layers[number].rows(ids)
    return found


@_product.register_fake
def _product_shape(x: torch.Tensor, number: int, out: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], out)


@_rows.register_fake
def _rows_shape(ids: torch.Tensor, number: int, width: int) -> torch.Tensor:
    return torch.empty(len(ids), width)
