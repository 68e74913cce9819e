"""Packed layers beside the processor: by torch's int4 kernel on CUDA, by restored blocks anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from rarefy.engines.packed_layers import PackedEmbedding, PackedLinear

if TYPE_CHECKING:
    from rarefy.engines.packed_levels import Levels

AT_ONCE: Final = 32
"""Rows of input up to which kernels, made for few of them, beat products with the restored matrix."""


class PackedTorch(PackedLinear):
    """Integers of either width, in bfloat16. device: where it is to stay: the layout is the kernel's there."""

    packed: torch.Tensor
    scales: torch.Tensor
    types = (torch.bfloat16,)

    def __init__(self, levels: Levels, columns: int, device: str) -> None:
        super().__init__(len(levels.q), columns, levels.bits, levels.error)
        self._keep("index", levels.index, device, torch.int64)
        self._keep("columns", levels.columns, device, torch.bfloat16)

    def _keep(self, name: str, values: Any, device: str, dtype: torch.dtype) -> None:
        kept = None if values is None else torch.as_tensor(values).to(device, dtype)
        self.register_buffer(name, kept, persistent=False)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        flat = self._prepared(x.reshape(-1, self.in_features))
        y = self._few(flat) if len(flat) <= AT_ONCE else self._many(flat)
        return y.view(*x.shape[:-1], self.out_features)

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        """Prepared rows of input times the matrix, by the kernel if there is one."""
        return self._many(x)


class Packed4(PackedTorch):
    """At 4 bits: in the layout of CUDA's kernel there; elsewhere two weights a byte."""

    def __init__(self, levels: Levels, columns: int, device: str) -> None:
        super().__init__(levels, columns, device)
        self.group = levels.group
        q = torch.as_tensor(levels.q)
        packed: torch.Tensor
        if torch.device(device).type == "cuda" and self.out_features % 8 == 0 and q.shape[1] % _INNER == 0:
            pairs = (q[:, ::2] << 4 | q[:, 1::2]).to(device, torch.uint8)
            packed, self.kernel = torch._convert_weight_to_int4pack(pairs, _INNER // 16), "int4pack on CUDA"
        else:
            packed, self.kernel = q[:, ::2].byte() | q[:, 1::2].byte() << 4, "restored by blocks"
        self._keep("packed", packed, device, packed.dtype)
        scales = torch.stack([torch.as_tensor(levels.scale).t(), torch.as_tensor(levels.offset).t()], 2)
        self._keep("scales", scales.contiguous(), device, torch.bfloat16)  # (groups, out, 2)

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == "int4pack on CUDA":
            return torch._weight_int4pack_mm(x, self.packed, self.group, self.scales)
        return super()._few(x)

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        return super()._many(x) if self.kernel == "restored by blocks" else self._few(x)

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        if self.kernel == "restored by blocks":
            scale, offset = self.scales[:, start:stop].float().permute(2, 1, 0)[..., None]
            pairs = self.packed[start:stop]
            q = torch.stack([pairs & 15, pairs >> 4], 2).reshape(len(pairs), -1, self.group)
            return torch.addcmul(offset, q.float().sub_(8), scale).reshape(len(pairs), -1)
        # The kernel itself knows its layout: its columns are its answers to unit vectors.
        wide = self.scales.shape[0] * self.group
        unit = torch.eye(wide, dtype=torch.bfloat16, device=self.packed.device)
        return self._few(unit).t()[start:stop].float()


class Packed8(PackedTorch):
    """At 8 bits with a scale a row; the layout is the plain one, so that rows can be looked up too."""

    kernel = "restored by blocks"

    def __init__(self, levels: Levels, columns: int, device: str) -> None:
        super().__init__(levels, columns, device)
        self._keep("packed", levels.q, device, torch.int8)
        self._keep("scales", levels.scale[:, 0], device, torch.bfloat16)

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        return self.packed[start:stop].float() * self.scales[start:stop, None]


class TorchEmbedding(PackedEmbedding):
    """Of what `Packed8` holds."""

    packed: torch.Tensor
    scales: torch.Tensor

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        w = self.packed.index_select(0, ids).float() * self.scales.index_select(0, ids)[:, None]
        return self._plain(w, self.embedding_dim)


_INNER: Final = 32
"""Columns that the CUDA kernel takes together in the narrowest of its layouts."""
