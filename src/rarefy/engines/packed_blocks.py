"""Blocks of a packed network in few calls: one token takes longer to call its layers than to be multiplied by them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from torch import nn

from rarefy.engines.packed_native import AT_ONCE, PackedNative, beside
from rarefy.native import _kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEAR: Final = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""The types that kernels compute in, and how far a block in few calls may be from itself, relative to it, on noise."""

ELSE: Final = ("cache", "position_bias", "softcap")
"""What may be said to transformers' attention that changes it."""


def quicken(module: nn.Module) -> None:
    """Let blocks of a network packed for a processor compute in few calls, where they are of the kinds in `BLOCKS`.

    A block is of a kind if it has its parts and if both agree on noise; what classes say between parts is not read.
    The network is one that evaluates.
    """
    for child in module.modules():
        any(kind.fits(child) and _agrees(child, kind) for kind in BLOCKS)


def _agrees(child: Any, kind: Any) -> bool:
    """Put `kind` before the class of `child`, if it computes the same."""
    own: Any = type(child)
    with torch.no_grad():
        try:
            expected = list(kind.trial(child, child.forward))
            child.__class__ = _before(kind, own)
            same = all(map(_near, kind.trial(child, child.quick), expected))
        except Exception:  # whatever a class raises that takes or makes something else
            same = False
    if not same:
        child.__class__ = own
    return same


def _near(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    if found is None:
        return False
    distance, size = (each.float().norm(dim=-1) for each in (found - expected, expected))
    return found.shape == expected.shape and bool((distance <= NEAR[expected.dtype] * size).all())


@cache
def _before(kind: Any, own: Any) -> Any:
    return type(own.__name__, (kind, own), {"__module__": own.__module__, "__doc__": own.__doc__})


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _plain(x: torch.Tensor) -> bool:
    """Whether kernels may read x: some rows of a type of theirs, in no graph."""
    if torch.compiler.is_compiling() or not x.is_cpu or x.dtype not in NEAR:
        return False
    return x.numel() <= AT_ONCE * x.shape[-1] and not (x.requires_grad and torch.is_grad_enabled())


class Block(nn.Module):
    """A way to compute a block, before the class that it is of, which computes the rest."""

    parts: ClassVar[tuple[str, ...]] = ()
    """Names of its packed layers; the first reads the block's input."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        return all(type(module._modules.get(name)) is PackedNative for name in cls.parts)

    @classmethod
    def trial(cls, module: Any, compute: Callable[..., Any]) -> Iterator[torch.Tensor]:
        """What a way to compute the module makes of noise."""
        raise NotImplementedError

    def quick(self, *given: Any, **named: Any) -> Any:
        """What `forward` makes of the same, in few calls; None where that does not go."""
        raise NotImplementedError

    def forward(self, *given: Any, **named: Any) -> Any:
        found = self.quick(*given, **named)
        return super().forward(*given, **named) if found is None else found

    def direct(self, x: torch.Tensor) -> list[PackedNative] | None:
        """Its parts, if kernels may compute them on x: no hook and no adapter is between."""
        layers: list[Any] = [self._modules[name] for name in self.parts]
        alone = all(type(layer) is PackedNative and layer.unwatched for layer in layers)
        return layers if alone and _plain(x) and x.shape[-1] == layers[0].in_features else None


class RMSNorm(Block):
    """x w / rms(x) (Zhang and Sennrich 2019)."""

    offset: ClassVar[float] = 0.0
    """Added to w."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        return type(module).__name__.endswith("RMSNorm") and list(module._parameters) == ["weight"]

    @classmethod
    def trial(cls, module: Any, compute: Callable[..., Any]) -> Iterator[torch.Tensor]:
        x = _noise(1, 2, len(module.weight)).to(module.weight.dtype)
        x[:, 0] *= 1e-3  # as small as what keeps zeros from a division by zero
        yield compute(x)

    def quick(self, x: torch.Tensor) -> torch.Tensor | None:
        w: Any = self._parameters["weight"]
        learns = w.requires_grad and torch.is_grad_enabled()
        if learns or x.dtype is not w.dtype or x.shape[-1] != len(w) or not _plain(x):
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        n, bfloat16 = x.numel() // len(w), x.dtype is torch.bfloat16
        _kernels.rms_norm(x.data_ptr(), n, len(w), w.data_ptr(), self.offset, self._epsilon, y.data_ptr(), bfloat16)
        return y

    @property
    def _epsilon(self) -> float:
        """By either name that transformers' norms give it."""
        found: float = self.__dict__["variance_epsilon" if "variance_epsilon" in self.__dict__ else "eps"]
        return found


class OffsetRMSNorm(RMSNorm):
    """Gemma's."""

    offset = 1.0


class GatedMLP(Block):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, "GLU Variants Improve Transformer"), act t sigmoid(a t + b t^3)."""

    parts = "gate_proj", "up_proj", "down_proj"
    curve: ClassVar[tuple[float, float]] = 1.0, 0.0
    """a and b: SiLU's."""

    @classmethod
    def trial(cls, module: Any, compute: Callable[..., Any]) -> Iterator[torch.Tensor]:
        x = _noise(1, 2, module.gate_proj.in_features)
        x[:, 0] *= 1e3  # beyond what a class may clip
        yield compute(x)

    def quick(self, x: torch.Tensor) -> torch.Tensor | None:
        layers = self.direct(x)
        if layers is None:
            return None
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], layers[2].out_features)
        gate, up, down = (layer.matrix for layer in layers)
        n, bfloat16 = x.numel() // x.shape[-1], x.dtype is torch.bfloat16
        _kernels.gated(gate, up, down, *self.curve, x.data_ptr(), n, y.data_ptr(), bfloat16)
        return y


class GELUMLP(GatedMLP):
    """With tanh's approximation of GELU (Hendrycks and Gimpel 2016), which is a sigmoid's too."""

    curve = 2 * (2 / torch.pi) ** 0.5, 2 * (2 / torch.pi) ** 0.5 * 0.044715


class Attention(Block):
    """One token's attention to those before it and itself: query, key and value at once, and turned where they lie.

    Halves of a head turn against each other by position (Su et al. 2021, "RoFormer"); heads may be normed before.
    """

    parts = "q_proj", "k_proj", "v_proj", "o_proj"
    head_dim: int
    layer_idx: int
    scaling: float
    config: Any
    q_norm: nn.Module
    k_norm: nn.Module

    @classmethod
    def trial(cls, module: Any, compute: Callable[..., Any]) -> Iterator[torch.Tensor]:
        from transformers import DynamicCache

        kept, x = DynamicCache(), _noise(2, 2, 1, module.q_proj.in_features)
        x[:, 0] *= 1e3  # beyond what a class may clip
        for token in x:
            turns = tuple(_noise(2, 2, 1, module.head_dim))
            found, _ = compute(token, position_embeddings=turns, attention_mask=None, past_key_values=kept)
            yield found

    def quick(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None] | None:
        layers = self.direct(hidden_states) if self._one(hidden_states, position_embeddings, more) else None
        if layers is None:
            return None
        n, size, bfloat16 = len(hidden_states), self.head_dim, hidden_states.dtype is torch.bfloat16
        parts = [layer.out_features // size for layer in layers[:3]]
        queries, keys, _ = parts
        heads = _products(layers[:3], hidden_states).view(n, sum(parts), 1, size)
        if "q_norm" in self._modules:
            query, key, value = heads.split_with_sizes(parts, 1)
            heads = torch.cat([self.q_norm(query), self.k_norm(key), value], 1)
        cos, sin = (turn.expand(n, -1, -1).contiguous() for turn in position_embeddings)
        at, row = heads.data_ptr(), sum(parts)
        _kernels.rotate(at, n, row, queries + keys, size, cos.data_ptr(), sin.data_ptr(), bfloat16)
        query, key, value = heads.split_with_sizes(parts, 1)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if attention_mask is None and all(each.is_contiguous() and each.dtype is heads.dtype for each in (key, value)):
            found = heads.new_empty(n, 1, queries * size)
            kept, count = key.shape[1:3]
            pointers = at, n, queries, row, key.data_ptr(), value.data_ptr(), kept, count, size
            _kernels.attend(*pointers, self.scaling, found.data_ptr(), bfloat16)
        else:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
            found, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, **more)
        return _products(layers[3:], found.reshape(n, 1, -1)), None

    def _one(self, x: torch.Tensor, turns: Any, more: dict[str, Any]) -> bool:
        """Whether x is a token of each sequence, turned by angles for all of a head, and torch attends as ever."""
        if x.dim() != 3 or x.shape[1] != 1 or turns is None or self.training or any(word in more for word in ELSE):
            return False
        cos = turns[0]
        fits = cos.dim() == 3 and cos.shape[1:] == (1, self.head_dim) and cos.dtype is x.dtype
        return fits and self.config._attn_implementation == "sdpa"


def _products(layers: list[PackedNative], x: torch.Tensor) -> torch.Tensor:
    """What layers make of x (..., in), beside each other."""
    y = beside(layers, x, x.numel() // x.shape[-1])
    end = 0
    for layer in layers:
        end += layer.out_features
        if (bias := layer._parameters["bias"]) is not None:
            y[..., end - layer.out_features : end] += bias
    return y


BLOCKS: Final[tuple[type[Block], ...]] = (RMSNorm, OffsetRMSNorm, GatedMLP, GELUMLP, Attention)
