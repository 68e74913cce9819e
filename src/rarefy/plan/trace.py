"""What a segment's run takes in memory, found without computing: only shapes go through the network."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rarefy.evidence.statistics import unfold
from rarefy.families.values import model_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rarefy.families import Segments


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors made inside it that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors_in(out):
            self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Run:
    """activations: the most bytes alive while a segment runs; moments: inputs of each second moment gathered."""

    activations: int
    moments: tuple[int, ...]


class Trace:
    """A network's segments, to be run on the shape of one micro-batch.

    calls: bytes that the blocks are given beside the running value; value: bytes of the running value.

    Raises whatever the network raises for inputs that it does not take.
    """

    def __init__(
        self, segments: Segments, shapes: Mapping[str, tuple[int, ...]], batch: torch.Tensor, dtype: torch.dtype
    ) -> None:
        """shapes: of the tensors by module name; dtype: in which the walk computes."""
        self.segments, self.shapes, self.dtype = segments, shapes, dtype
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.inputs = model_inputs(segments.module, self._mode.from_tensor(batch))
        self.calls = self.value = 0
        if segments.blocks:
            with self._mode, torch.no_grad():
                segments.probe(self._tensors(len(segments) - 1), self.inputs)
        if segments.blocks:
            with self._mode, torch.no_grad():
                self._value, self._calls = segments.head(self._tensors(0), self.inputs)
            beside = _tensors_in([(call.args, call.kwargs) for call in self._calls])
            self.calls = sum({id(tensor): tensor.nbytes for tensor in beside}.values())
            self.value = self._value.nbytes

    def run(self, i: int, gather: list[str]) -> Run:
        """Segment `i`, with the second moments of the layers `gather` or none."""
        rows: list[tuple[Any, int]] = []

        def see(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            # As the gatherer does: inputs are held to the end, and those of several layers have one moment.
            if not any(args[0] is seen for seen, _ in rows):
                rows.append((args[0], unfold(layer, args[0]).float().shape[1]))

        module = self.segments.module
        handles = [module.get_submodule(path).register_forward_pre_hook(see) for path in gather]
        try:
            with self._mode, torch.no_grad():
                tensors, value = self._tensors(i), self._value.clone() if self.segments.blocks else None
                with _Live() as live:
                    self._run(i, tensors, value)
        finally:
            for handle in handles:
                handle.remove()
        return Run(live.peak, tuple(width for _, width in rows))

    def _run(self, i: int, tensors: dict[str, torch.Tensor], value: Any) -> None:
        if not self.segments.blocks:
            self.segments.whole(tensors, self.inputs)
        elif i == 0:
            self.segments.head(tensors, self.inputs)
        elif i == len(self.segments) - 1:
            self.segments.tail(tensors, self.inputs, value)
        else:
            self.segments.block(i, tensors, value, self._calls[i - 1])

    def _tensors(self, i: int) -> dict[str, torch.Tensor]:
        """Weights without values. Integers are buffers of the module, which it has itself."""
        state = self.segments.module.state_dict(keep_vars=True)
        names = [name for name in self.segments.tensor_names(i) if name in self.shapes]
        floating = [name for name in names if state[name].is_floating_point()]
        return {name: torch.empty(self.shapes[name], dtype=self.dtype) for name in floating}


def _tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
