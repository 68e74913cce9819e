"""How large the inputs of a layer become."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rarefy.evidence.statistics import NEVER, Statistic
from rarefy.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn


@dataclass(frozen=True)
class Ranges(Statistic):
    """The largest size of a linear layer's or convolution's input, over all its uses: a float."""

    NAME: ClassVar[str] = "range of the inputs"


def range_obstacle(layer: nn.Module) -> str:
    """Why a layer has no range, or "" when it has one."""
    from torch import nn

    return "an embedding is looked up" if isinstance(layer, nn.Embedding) else ""


class RangeGatherer:
    """Follows max |x| while a segment runs, for each parameter over all its uses."""

    def __init__(
        self, module: nn.Module, uses: Mapping[str, tuple[str, ...]], processes: Processes | None = None
    ) -> None:
        """uses: parameter -> paths of the layers that multiply by it. processes: those that see the other
        micro-batches."""
        self._processes = processes or Processes()
        self._largest: dict[str, torch.Tensor | None] = dict.fromkeys(uses)
        self._handles = [
            module.get_submodule(path).register_forward_pre_hook(
                functools.partial(self._see, parameter), with_kwargs=True
            )
            for parameter, paths in uses.items()
            for path in paths
        ]

    def _see(self, parameter: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        if x.numel():
            largest, before = x.detach().abs().amax().float(), self._largest[parameter]
            self._largest[parameter] = largest if before is None else before.maximum(largest)

    def next_batch(self) -> None:
        """Close a micro-batch: nothing to do, a maximum has no order."""

    def remove(self) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()

    def gathered(self) -> dict[str, float | str]:
        """Of every parameter the range over the micro-batches of all processes, or why it has none."""
        own = {name: None if largest is None else float(largest) for name, largest in self._largest.items()}
        seen = self._processes.gather(own)
        found: dict[str, float | str] = {}
        for name in own:
            sizes = [size for each in seen if (size := each[name]) is not None]
            found[name] = max(sizes) if sizes else NEVER
        return found
