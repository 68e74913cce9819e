"""Statistics of what flows into a site, and the hooks that gather them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True)
class Statistic:
    """A kind of statistic: what a method asks for by `needs`."""

    NAME: ClassVar[str] = ""


@dataclass(frozen=True)
class SecondMoment(Statistic):
    """S = E[x x^T] of a linear layer's or (unfolded) convolution's input, over all its uses."""

    NAME: ClassVar[str] = "second moment"


class Moment:
    """A measured second moment.

    s: float32 (in, in), the mean of x x^T over `count` inputs (tokens, or positions of a convolution).
    """

    def __init__(self, s: NDArray[np.float32], count: int) -> None:
        self.s, self.count = s, count
        self._factors: dict[tuple[float, bytes | None], NDArray[np.float32]] = {}

    def factor(self, damping: float, order: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """U of `maths.linalg.inverse_factor` for the damped S, its rows and columns in `order`; computed once."""
        from rarefy.maths.linalg import damped, inverse_factor

        key = (damping, None if order is None else order.tobytes())
        if key not in self._factors:
            s = damped(self.s.astype(np.float64), damping)
            if order is not None:
                s = s[np.ix_(order, order)]
            self._factors[key] = inverse_factor(s).astype(np.float32)
        return self._factors[key]

    def energy(self, w: NDArray[np.float32]) -> float:
        """E |W x|^2 = tr(W S W^T) of a matrix (out, in)."""
        from rarefy.maths.linalg import quadratic

        return quadratic(w, self.s)


class MomentGatherer:
    """Sums x x^T per site while a segment runs. Sites fed with one tensor share one sum."""

    def __init__(self, module: nn.Module, paths: list[str]) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._same: dict[str, str] = {}
        self._current: list[tuple[Any, str]] = []
        self._handles = [
            module.get_submodule(path).register_forward_pre_hook(functools.partial(self._see, path)) for path in paths
        ]

    def _see(self, path: str, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].detach()
        for seen, leader in self._current:
            if seen is args[0] and self._same.get(path, leader) == leader and type(layer).__name__ == "Linear":
                self._same[path] = leader
                return
        self._current.append((args[0], path))
        rows = unfold(layer, x)
        if path not in self._sums:
            import torch

            self._sums[path] = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float32, device=rows.device)
            self._counts[path] = 0
        rows = rows.float()
        self._sums[path].addmm_(rows.T, rows)
        self._counts[path] += len(rows)

    def next_batch(self) -> None:
        """Forget which tensors were seen: call between micro-batches."""
        self._current.clear()

    def close(self) -> dict[str, Moment]:
        """Remove the hooks; the moment of every path that ran."""
        for handle in self._handles:
            handle.remove()
        self._current.clear()
        made = {
            path: Moment((total / max(self._counts[path], 1)).cpu().numpy(), self._counts[path])
            for path, total in self._sums.items()
        }
        return made | {path: made[leader] for path, leader in self._same.items()}


def unfold(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Inputs as the rows (n, in) that the layer's matrix view multiplies."""
    from torch import nn
    from torch.nn import functional

    if not isinstance(layer, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    if isinstance(layer.padding, str):
        raise ValueError("string padding")
    patches = functional.unfold(
        x,
        layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def moment_obstacle(layer: nn.Module) -> str:
    """Why a layer has no single second moment, or "" when it has one."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return ""
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            return "a grouped convolution has no single second moment"
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return "only zero padding given in numbers is unfolded"
        return ""
    return f"{type(layer).__name__} has no second moment of inputs"
