"""What a network's segments take in memory, found without computing: only shapes go through it."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rarefy.evidence.statistics import unfold
from rarefy.families.values import model_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping


_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.convolution}


@dataclass
class Traced:
    """One segment. activations: the most bytes alive while it runs; moments: the inputs of each second moment gathered.

    products: operations of its products, two a multiplication and addition. output: bytes of what came out last.
    value, beside: bytes of a block's running value, and of the tensors it is given beside it, which no block made.
    modules: paths of what runs in it.
    """

    activations: int = 0
    moments: list[int] = field(default_factory=list)
    products: int = 0
    output: int = 0
    value: int = 0
    beside: int = 0
    modules: set[str] = field(default_factory=set)


def trace(
    module: nn.Module,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    layout: Sequence[str | None],
    gather: Sequence[str],
    batch: torch.Tensor,
    dtype: torch.dtype,
    backwards: bool = False,
) -> list[Traced]:
    """Run the shape of a micro-batch through `module`: its blocks, and what comes before, between and after them.

    tensors: name -> (what names that are tied share, shape). layout: of each segment the block that it is, None where
    it is none. gather: paths of layers whose second moment is wanted. dtype: in which it computes. backwards: of each
    segment by itself, all that a pass back through it needs is held, and so are the outputs of `gather`.

    Raises whatever the network raises for inputs that it does not take.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    held = module.state_dict(keep_vars=True)
    with mode, torch.set_grad_enabled(backwards), _unheard():
        # Weights that want gradients hold a layer's inputs, as the survey's hooks do.
        learnt = {key for name, (key, _) in tensors.items() if isinstance(held[name], torch.nn.Parameter)}
        made = {
            key: torch.empty(shape, dtype=dtype, requires_grad=backwards and key in learnt)
            for key, shape in tensors.values()
        }
        # Integers are buffers, which the module has itself.
        given = {name: made[key] for name, (key, _) in tensors.items() if held[name].is_floating_point()}
        args, kwargs = model_inputs(module, mode.from_tensor(batch))
        with _Live([*made.values(), *_tensors_in([args, kwargs])]) as live:
            watch = _Watch(module, layout, gather, live, backwards)
            try:
                with FlopCounterMode(display=False) as watch.counter:
                    out = functional_call(module, given, args, kwargs, tie_weights=True, strict=False)
                    watch.segments[-1].output = max((tensor.nbytes for tensor in _tensors_in(out)), default=0)
            finally:
                watch.close()
    return watch.segments


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """torch logs the traceback of what its shapes do not fit; the error itself is enough."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors made inside it that are alive, and the most there ever were; knows which of them
    a block made, or were made of such."""

    def __init__(self, before: Sequence[torch.Tensor]) -> None:
        """before: tensors whose views are not new."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._before = {tensor.untyped_storage()._cdata for tensor in before}
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._by_blocks: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Shapes alone do not tell that torch multiplies no integers by floats.
        mixed = {str(tensor.dtype) for tensor in _tensors_in(args)} if func.overloadpacket in _PRODUCTS else set()
        if len(mixed) > 1:
            raise TypeError(f"{' and '.join(sorted(mixed))} cannot be multiplied")
        out = func(*args, **(kwargs or {}))
        made = _tensors_in(out)
        for tensor in made:
            self._add(tensor.untyped_storage())
        if any(map(self.by_block, _tensors_in([args, kwargs]))):
            self.mark(made)
        return out

    def mark(self, tensors: Sequence[torch.Tensor]) -> None:
        """A block made these."""
        self._by_blocks.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def by_block(self, tensor: torch.Tensor) -> bool:
        """Whether a block made it, or something that it was made of."""
        return tensor.untyped_storage()._cdata in self._by_blocks

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._before:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self._by_blocks.discard(key)
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Watch:
    """Notes what lives, segment by segment, while a network runs."""

    counter: FlopCounterMode

    def __init__(
        self, module: nn.Module, layout: Sequence[str | None], gather: Sequence[str], live: _Live, backwards: bool
    ) -> None:
        self.segments = [Traced() for _ in layout]
        self._live, self._now = live, self.segments[0]
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._handles: list[Any] = []
        self._before = self._counted = 0
        self._backwards = backwards
        for path, layer in module.named_modules():
            self._on(layer, lambda *_, path=path: self._now.modules.add(path))
        for path in gather:
            self._on(module.get_submodule(path), self._gathered)
            if backwards:
                keep = module.get_submodule(path).register_forward_hook(lambda *args: self._outputs.append(args[-1]))
                self._handles.append(keep)
        for i, part in enumerate(layout):
            if part is None:
                continue
            block = module.get_submodule(part)
            self._on(block, lambda _layer, args, kwargs, i=i: self._enter(i, args, kwargs))
            self._handles.append(block.register_forward_hook(lambda *args, i=i: self._end(i, args[-1])))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._leave()

    def _on(self, layer: nn.Module, see: Any) -> None:
        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(layer, args, kwargs)

        self._handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))

    def _enter(self, i: int, args: Any = (), kwargs: Any = None) -> None:
        self._leave()
        self._now = self.segments[i]
        given = _tensors_in([args, kwargs])
        if given:
            running = {id(given[0])} | {id(tensor) for tensor in given if self._live.by_block(tensor)}
            sizes = {id(tensor): tensor.nbytes for tensor in given}
            self._now.value = sum(size for key, size in sizes.items() if key in running)
            self._now.beside = sum(sizes.values()) - self._now.value

    def _end(self, i: int, out: Any) -> None:
        self._live.mark(_tensors_in(out))
        self._enter(i + 1)

    def _leave(self) -> None:
        self._now.activations = max(self._now.activations, self._live.peak - self._before)
        counted = self.counter.get_total_flops()
        self._now.products += counted - self._counted
        self._counted = counted
        self._inputs.clear()
        self._outputs.clear()
        self._live.peak = self._live.now
        # What segments before hold for the way back is not there when this one runs by itself.
        self._before = self._live.now if self._backwards else 0

    def _gathered(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # As the gatherer does: inputs are held to the end, and those of several layers have one moment.
        x = args[0] if args else kwargs["input"]
        if not any(x is seen for seen in self._inputs):
            self._inputs.append(x)
            self._now.moments.append(unfold(layer, x).float().shape[1])


def _tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
