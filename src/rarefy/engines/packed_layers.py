"""What layers whose weights stay at 4 or 8 bits in memory have in common, whatever kernels they go by."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from torch import nn

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

BLOCK: Final = 1024
"""Rows of a matrix restored at a time; a multiple of the kernels' own blocks."""


class Unsaved(nn.Module):
    """A layer of a packed network. index, columns: of prepared inputs, as `Levels` has them."""

    index: torch.Tensor | None
    columns: torch.Tensor | None

    @property
    def unwatched(self) -> bool:
        """Whether calling it does nothing but what its class says."""
        return not (self._forward_hooks or self._forward_pre_hooks or "forward" in self.__dict__)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows (n, in) of the matrix, in the type that it is computed in. ids: int64 (n,)."""
        raise NotImplementedError

    def _held(self, name: str) -> Any:
        """One of its tensors. Such layers are many and small, and nn.Module's way to an attribute is long."""
        return self._buffers[name]

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (n, in) as the columns read them (n, digits), in their type."""
        if (index := self._held("index")) is not None:
            x = x.index_select(1, index.to(torch.int64))
        if (columns := self._held("columns")) is not None:
            x = (x * columns).to(x.dtype)
        return x

    def _plain(self, w: torch.Tensor, width: int) -> torch.Tensor:
        """Rows (n, width) for inputs as they are, float32, from those for prepared ones (n, digits), float32."""
        if (columns := self._held("columns")) is not None:
            w = w * columns
        if (index := self._held("index")) is not None:
            w = w.new_zeros(len(w), width).index_add_(1, index.to(torch.int64), w)
        return w

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Nothing, for adapters: PEFT picks their tensors out of a state that has the network as base_model."""
        if "base_model." not in prefix:
            raise UsageError("a packed network is not saved", "its weights are in its artifact", "copy that")


class PackedLinear(Unsaved, nn.Linear):
    """x W' + b with W at 4 or 8 bits; W (out, in).

    W does not learn and has no gradient; the input has, for adapters (Dettmers et al. 2023, "QLoRA"), which take what
    is an nn.Linear.

    bits: of a weight. error: what packing added, as in `Levels`. kernel: by which it multiplies.
    types: it computes in the input's where that is one of these, else in the first.
    """

    bits: int
    error: float
    kernel: str
    types: tuple[torch.dtype, ...]
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(self, out: int, columns: int, bits: int, error: float) -> None:
        nn.Module.__init__(self)  # without the dense matrix of an nn.Linear
        self.in_features, self.out_features = columns, out
        self.bits, self.error = bits, error
        self.register_parameter("bias", None)

    def with_bias(self, bias: torch.Tensor) -> Self:
        """The same layer, its tensors shared, with a bias (out,)."""
        other = copy.copy(self)
        other._parameters = {"bias": nn.Parameter(bias.detach(), requires_grad=False)}
        return other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"inputs of {x.shape[-1]} for a layer that takes {self.in_features}")
        if dtype not in self.types:
            x = x.to(self.types[0])
        y = Product.apply(x, self) if x.requires_grad else self.product(x)  # type: ignore[no-untyped-call]
        if (bias := self._parameters["bias"]) is not None:
            y = y + bias
        return y if y.dtype is dtype else y.to(dtype)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (..., in) of one of `types` times the matrix, in that type."""
        raise NotImplementedError

    def _restored(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the matrix for prepared inputs, float32."""
        raise NotImplementedError

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        """Prepared inputs (n, digits) times the matrix, restored by blocks."""
        y = x.new_empty(len(x), self.out_features)
        for start in range(0, self.out_features, BLOCK):
            stop = min(start + BLOCK, self.out_features)
            y[:, start:stop] = x @ self._restored(start, stop).to(x.dtype).t()
        return y

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of `product`'s inputs from that of what it makes."""
        flat = gradient.reshape(-1, self.out_features)
        x = torch.zeros((), dtype=torch.float32, device=gradient.device)
        for start in range(0, self.out_features, BLOCK):
            stop = min(start + BLOCK, self.out_features)
            x = x + flat[:, start:stop] @ self._restored(start, stop).to(gradient.dtype)
        return self._plain(x, self.in_features).view(*gradient.shape[:-1], -1).to(gradient.dtype)

    @property
    def weight(self) -> Restored:  # type: ignore[override]
        """W (out, in) restored, in the first of `types`, made anew for everybody who asks."""
        w = self._plain(self._restored(0, self.out_features), self.in_features)
        return w.to(self.types[0]).as_subclass(Restored)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, kernel={self.kernel}"


class PackedEmbedding(Unsaved):
    """Looks rows up in a packed matrix, whose tensors a tied head may share.

    dtype: of what it finds, and so of the network behind it.
    """

    def __init__(self, table: PackedLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.dtype = table.out_features, table.in_features, dtype
        for name, tensor in table._buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(ids.reshape(-1)).to(self.dtype).reshape(*ids.shape, -1)

    @property
    def weight(self) -> Restored:
        """The matrix restored, made anew for everybody who asks."""
        found: torch.Tensor = self.forward(torch.arange(self.num_embeddings, device=next(self.buffers()).device))
        return found.as_subclass(Restored)


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
