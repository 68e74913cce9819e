"""Statistics of what flows into a site, and the hooks that gather them."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.evidence.experts import peers
from rarefy.families.base import turns
from rarefy.maths.gram import add_gram, mirror
from rarefy.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True)
class Outputs(Statistic):
    """What the original network gives for the calibration data; run by the method that asks for it."""

    NAME: ClassVar[str] = "outputs of the original"


class Moment:
    """A measured second moment.

    s: float32 (in, in), the mean of x x^T over `count` inputs (tokens, or positions of a convolution).
    """

    def __init__(self, s: NDArray[np.float32], count: int) -> None:
        self.s, self.count = s, count
        self._factors: dict[tuple[float, bytes | None], NDArray[np.float32]] = {}

    def factor(self, damping: float, order: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """U of `maths.linalg.inverse_factor` for the damped S, its rows and columns in `order`; computed once."""
        from rarefy.maths.linalg import damped_factor

        key = (damping, None if order is None else order.tobytes())
        if key not in self._factors:
            s = (self.s if order is None else self.s[np.ix_(order, order)]).astype(np.float64)
            self._factors[key] = damped_factor(s, damping)
        return self._factors[key]

    def finite(self) -> bool:
        """Whether no input overflowed."""
        return bool(np.isfinite(self.s).all())

    def energy(self, w: NDArray[np.float32]) -> float:
        """E |W x|^2 = tr(W S W^T) of a matrix (out, in)."""
        from rarefy.maths.linalg import quadratic

        return quadratic(w, self.s)


def pooled(moments: Sequence[Moment]) -> Moment:
    """The moment over all inputs of several."""
    if len(moments) == 1:
        return moments[0]
    count = sum(moment.count for moment in moments)
    total = functools.reduce(operator.add, (moment.s * moment.count for moment in moments))
    return Moment((total / max(count, 1)).astype(np.float32), count)


NEVER = "calibration never reached it"


def borrowed(gathered: Mapping[str, Moment | str]) -> dict[str, Moment | str]:
    """The same, but of experts that saw fewer inputs than their matrix has columns the moment over all their peers."""
    made: dict[int, Moment] = {}
    found = dict(gathered)
    for name, group in peers(gathered).items():
        own, seen = gathered[name], [moment for peer in group if isinstance(moment := gathered[peer], Moment)]
        if seen and (own == NEVER or (isinstance(own, Moment) and own.count < len(own.s))):
            if id(group) not in made:
                made[id(group)] = pooled(seen)
            found[name] = made[id(group)]
    return found


Stream = str
"""One flow of inputs: the first layer that reads it, and which of that layer's runs in a micro-batch."""


class MomentGatherer:
    """Sums x x^T while a segment runs, for each parameter over all its uses. Layers fed with one tensor share a sum."""

    def __init__(
        self, module: nn.Module, uses: Mapping[str, tuple[str, ...]], processes: Processes | None = None
    ) -> None:
        """uses: parameter -> paths of the linear layers and convolutions that multiply by it. processes: those that
        see the other micro-batches."""
        self._uses, self._processes = uses, processes or Processes()
        self._sums: dict[Stream, torch.Tensor] = {}
        self._counts: dict[Stream, int] = {}
        self._read: dict[str, list[Stream]] = {path: [] for paths in uses.values() for path in paths}
        self._usual: dict[str, list[Stream]] | None = None
        self._irregular: set[str] = set()
        self._current: list[tuple[torch.Tensor, int, Any, Stream]] = []
        self._handles = [
            module.get_submodule(path).register_forward_pre_hook(functools.partial(self._see, path), with_kwargs=True)
            for path in self._read
        ]

    def _see(self, path: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        how = unfolding(layer)
        # The version tells a tensor that was changed in place from what it was before.
        known = [s for seen, version, h, s in self._current if seen is x and version == x._version and h == how]
        stream = known[0] if known else f"{path} {len(self._read[path])}"
        self._read[path].append(stream)
        if not known:
            self._current.append((x, x._version, how, stream))
            self._add(stream, unfold(layer, x.detach()))

    def _add(self, stream: Stream, rows: torch.Tensor) -> None:
        import torch

        if stream not in self._sums:
            self._sums[stream] = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device)
            self._counts[stream] = 0
        add_gram(self._sums[stream], rows)
        self._counts[stream] += len(rows)

    def next_batch(self) -> None:
        """Close a micro-batch: call after each."""
        self._agree(self._read)
        self._read = {path: [] for path in self._read}
        self._current.clear()

    def _agree(self, read: dict[str, list[Stream]]) -> None:
        """Which layers share a stream must be the same in all micro-batches that have it."""
        usual = self._usual or {path: [] for path in read}
        earlier, now = set().union(*usual.values()), set().union(*read.values())
        for path, streams in read.items():
            new = [stream for stream in streams if stream not in usual[path]]
            missed = [stream for stream in usual[path] if stream in now and stream not in streams]
            if missed or earlier.intersection(new):
                self._irregular.add(path)
        self._usual = {path: usual[path] + [s for s in read[path] if s not in usual[path]] for path in read}

    def remove(self) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()

    def gathered(self) -> dict[str, Moment | str]:
        """Of every parameter its moment over the micro-batches of all processes, or why it has none."""
        self._join()
        # In place: a mean takes no room beside its sum.
        means = {
            stream: Moment(mirror(total).div_(max(self._counts[stream], 1)).cpu().numpy(), self._counts[stream])
            for stream, total in self._sums.items()
        }
        made: dict[tuple[Stream, ...], Moment] = {}
        found: dict[str, Moment | str] = {}
        for parameter, paths in self._uses.items():
            streams = tuple(stream for path in paths for stream in (self._usual or {}).get(path, []))
            if self._irregular & set(paths):
                found[parameter] = "its inputs are shared with another layer's in some batches only"
            elif not streams:
                found[parameter] = NEVER
            else:
                if streams not in made:
                    made[streams] = pooled([means[stream] for stream in streams])
                found[parameter] = made[streams]
        return borrowed(found)

    def _join(self) -> None:
        """Take in what the other processes saw."""
        self._sums = self._processes.sum(self._sums)
        known = self._processes.gather((self._usual or {}, sorted(self._irregular), self._counts))
        self._counts = {stream: sum(counts.get(stream, 0) for *_, counts in known) for stream in self._sums}
        for usual, irregular, _ in known:
            self._agree(usual)
            self._irregular.update(irregular)


def unfolding(layer: nn.Module) -> tuple[Any, ...]:
    """What decides the rows that `unfold` makes of an input: equal for layers that can share a sum."""
    from torch import nn

    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size, layer.dilation, layer.padding, layer.stride
    return ()


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

    if isinstance(layer, nn.Linear) or turns(layer):
        return ""
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            return "a grouped convolution has no single second moment"
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return "only zero padding given in numbers is unfolded"
        return ""
    return f"{type(layer).__name__} has no second moment of inputs"
