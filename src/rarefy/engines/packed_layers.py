"""Layers whose weights stay at 4 or 8 bits in memory, by the kernels that torch carries."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from torch import nn

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

    from rarefy.engines.packed_levels import Levels

AT_ONCE: Final = 32
"""Rows of input up to which the kernels, made for few of them, beat a restored matrix."""

BLOCK: Final = 1024
"""Rows of a matrix restored at a time; a multiple of the kernels' own blocks."""


class Unsaved(nn.Module):
    """A layer of a packed network. index, columns, packed, scales: see `Levels`."""

    index: torch.Tensor | None
    columns: torch.Tensor | None
    packed: torch.Tensor
    scales: torch.Tensor

    def _plain(self, w: torch.Tensor, width: int) -> torch.Tensor:
        """Rows (n, width) for inputs as they are, bfloat16, from those for prepared ones (n, digits), float32."""
        if self.columns is not None:
            w = w * self.columns
        if self.index is not None:
            w = w.new_zeros(len(w), width).index_add_(1, self.index, w)
        return w.to(torch.bfloat16)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Nothing, for adapters: PEFT picks their tensors out of a state that has the network as base_model."""
        if "base_model." not in prefix:
            raise UsageError("a packed network is not saved", "its weights are in its artifact", "copy that")


class PackedLinear(Unsaved, nn.Linear):
    """x W' + b with W at 4 or 8 bits; float32, and any other type, is computed in bfloat16.

    W does not learn and has no gradient; the input has, for adapters (Dettmers et al. 2023, "QLoRA"), which take what
    is an nn.Linear. levels: of W (out, in). columns: in. device: where it is to stay: the layout is the kernel's there.
    """

    kernel: str
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(self, levels: Levels, columns: int, device: str = "cpu") -> None:
        nn.Module.__init__(self)  # without the dense matrix of an nn.Linear
        self.in_features, self.out_features = columns, len(levels.q)
        self.bits, self.error = levels.bits, levels.error
        self.register_parameter("bias", None)
        self._keep("index", levels.index, device, torch.int64)
        self._keep("columns", levels.columns, device, torch.bfloat16)

    def with_bias(self, bias: torch.Tensor) -> Self:
        """The same layer, its tensors shared, with a bias (out,)."""
        other = copy.copy(self)
        other._parameters = {"bias": nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)}
        return other

    def _keep(self, name: str, values: Any, device: str, dtype: torch.dtype) -> None:
        kept = None if values is None else torch.as_tensor(values).to(device, dtype)
        self.register_buffer(name, kept, persistent=False)

    def _held(self, name: str) -> Any:
        """One of its tensors. Such layers are many and small, and nn.Module's way to an attribute is long."""
        return self._buffers[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape, dtype = x.shape, x.dtype
        flat = x if len(shape) == 2 else x.reshape(-1, shape[-1])
        if dtype is not torch.bfloat16:
            flat = flat.to(torch.bfloat16)
        if (index := self._held("index")) is not None:
            flat = flat.index_select(1, index)
        if (columns := self._held("columns")) is not None:
            flat = flat * columns
        y = self.product(flat) if not flat.requires_grad else Product.apply(flat, self)  # type: ignore[no-untyped-call]
        if (bias := self._parameters["bias"]) is not None:
            y = y + bias
        if dtype is not torch.bfloat16:
            y = y.to(dtype)
        return y if len(shape) == 2 else y.view(*shape[:-1], self.out_features)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Prepared rows of input times the matrix, bfloat16."""
        return self._few(x) if x.shape[0] <= AT_ONCE else self._many(x)

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        """The same, by the kernel."""
        raise NotImplementedError

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the matrix for prepared inputs, bfloat16."""
        raise NotImplementedError

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        y = x.new_empty(len(x), self.out_features)
        for start in range(0, self.out_features, BLOCK):
            stop = min(start + BLOCK, self.out_features)
            y[:, start:stop] = x @ self._restored(start, stop).t()
        return y

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of prepared rows of input from that of `product`."""
        x = torch.zeros((), dtype=torch.float32, device=gradient.device)
        for start in range(0, self.out_features, BLOCK):
            stop = min(start + BLOCK, self.out_features)
            x = x + gradient[:, start:stop] @ self._restored(start, stop)
        return x.to(gradient.dtype)

    @property
    def weight(self) -> Restored:  # type: ignore[override]
        """W (out, in) restored, bfloat16, made anew for everybody who asks."""
        return self._plain(self._restored(0, self.out_features).float(), self.in_features).as_subclass(Restored)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, kernel={self.kernel}"


class Product(torch.autograd.Function):
    """The product of a packed layer, with a gradient for its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layer.back(gradient), None


class Restored(torch.Tensor):
    """A matrix made for whoever asks: what is written into its data, as in merging an adapter, would be lost."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def _lost(self, *_: object) -> NoReturn:
        raise UsageError(
            "packed weights do not change", "they are restored from their codes", "merge where nothing is packed"
        )

    data = property(_lost, _lost)


class Packed4(PackedLinear):
    """At 4 bits. On a processor and on CUDA, in the layouts of torch's int4 kernels; elsewhere two weights a byte."""

    def __init__(self, levels: Levels, columns: int, device: str = "cpu") -> None:
        super().__init__(levels, columns, device)
        self.group = levels.group
        q = torch.as_tensor(levels.q)
        kind = torch.device(device).type
        packed: torch.Tensor
        if kind == "cpu" and self.out_features % 16 == 0:
            packed, self.kernel = torch._convert_weight_to_int4pack_for_cpu(q.int(), 1), "int4pack"
        elif kind == "cuda" and self.out_features % 8 == 0 and q.shape[1] % _INNER == 0:
            pairs = (q[:, ::2] << 4 | q[:, 1::2]).to(device, torch.uint8)
            packed, self.kernel = torch._convert_weight_to_int4pack(pairs, _INNER // 16), "int4pack on CUDA"
        else:
            packed, self.kernel = q[:, ::2].byte() | q[:, 1::2].byte() << 4, "restored by blocks"
        self._keep("packed", packed, device, packed.dtype)
        scales = torch.stack([torch.as_tensor(levels.scale).t(), torch.as_tensor(levels.offset).t()], 2)
        self._keep("scales", scales.contiguous(), device, torch.bfloat16)  # (groups, out, 2)
        self._blocks = kind == "cpu" and self.out_features % 64 == 0 and self.kernel == "int4pack" and _known()

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == "int4pack":
            return torch._weight_int4pack_mm_for_cpu(x, self._held("packed"), self.group, self._held("scales"))
        if self.kernel == "int4pack on CUDA":
            return torch._weight_int4pack_mm(x, self.packed, self.group, self.scales)
        return super()._many(x)

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        return super()._many(x) if self._blocks else self._few(x)

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        scale, offset = self.scales[:, start:stop].permute(2, 1, 0)[..., None]
        if self._blocks:
            q = _unblocked(self.packed[start:stop])
        elif self.kernel == "restored by blocks":
            pairs = self.packed[start:stop]
            q = torch.stack([pairs & 15, pairs >> 4], 2).reshape(len(pairs), -1)
        else:  # the kernel itself knows its layout: its columns are its answers to unit vectors
            wide = self.scales.shape[0] * self.group
            unit = torch.eye(wide, dtype=torch.bfloat16, device=self.packed.device)
            return self._few(unit).t()[start:stop]
        grouped = q.to(torch.bfloat16).sub_(8).reshape(len(q), -1, self.group)
        return torch.addcmul(offset, grouped, scale).reshape(len(q), -1)


class Packed8(PackedLinear):
    """At 8 bits with a scale a row; the layout is the plain one, so that rows can be looked up too."""

    def __init__(self, levels: Levels, columns: int, device: str = "cpu") -> None:
        super().__init__(levels, columns, device)
        self._keep("packed", levels.q, device, torch.int8)
        self._keep("scales", levels.scale[:, 0], device, torch.bfloat16)
        held = torch.device(device).type == "cpu" and self.out_features % 16 == 0
        self.kernel = "int8pack" if held else "restored by blocks"

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == "int8pack":
            return torch._weight_int8pack_mm(x, self._held("packed"), self._held("scales"))
        return self._many(x)

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        return self.packed[start:stop].to(torch.bfloat16) * self.scales[start:stop, None]


class PackedEmbedding(Unsaved):
    """Looks rows up in a packed matrix, whose tensors a tied head may share."""

    def __init__(self, table: Packed8) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.out_features, table.in_features
        for name in ("packed", "scales", "columns", "index"):
            self.register_buffer(name, getattr(table, name), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        flat = ids.reshape(-1)
        w = self.packed.index_select(0, flat).float() * self.scales.index_select(0, flat)[:, None]
        return self._plain(w, self.embedding_dim).reshape(*ids.shape, -1)

    @property
    def weight(self) -> Restored:
        """The matrix restored, made anew for everybody who asks."""
        return self.forward(torch.arange(self.num_embeddings, device=self.packed.device)).as_subclass(Restored)


_INNER: Final = 32
"""Columns that the CUDA kernel takes together in the narrowest of its layouts."""


def _unblocked(packed: torch.Tensor) -> torch.Tensor:
    """The levels (rows, columns) of the processor kernel's layout where it takes 64 rows together, as with AVX-512:
    for each column the low halves of 32 bytes are the first 32 rows, the high ones the others."""
    blocks = packed.reshape(len(packed) // 64, -1, 32)
    return torch.cat([blocks & 15, blocks >> 4], 2).transpose(1, 2).reshape(len(packed), -1)


@functools.cache
def _known() -> bool:
    """Whether the layout of `_unblocked` is this processor's."""
    q = torch.randint(0, 16, (128, 64), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    packed = torch._convert_weight_to_int4pack_for_cpu(q, 1)
    return bool(torch.equal(_unblocked(packed).int(), q))
