"""Segments: a network cut where the walk may hold one piece in memory at a time.

Segment 0 is what runs before the first block, segments 1..n are the blocks, the last is what runs after them. The
pieces before and after run inside the network's own forward, with the blocks replaced by stand-ins that catch what
they are given: so masks, position embeddings and every other argument are the real ones.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.families.base import Place, family_of, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn

    from rarefy.skeletons import Skeleton


class _Caught(Exception):
    """Raised by the last stand-in when what comes after the blocks is not wanted."""


@dataclass(frozen=True)
class Call:
    """What a block is called with beside the running value."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Segments:
    """A network's segments. Modules have no weights of their own: every run is given its tensors.

    names: a label per segment.
    reason: why the network is one segment, or "".
    """

    def __init__(self, skeleton: Skeleton) -> None:
        self.module = skeleton.build()
        self.ties = skeleton.ties
        family = family_of(self.module)
        self.family = family
        self.blocks = family.blocks(self.module) if family else []
        self.reason = "" if family else f"no family knows {type(self.module).__name__}"
        self._before: frozenset[str] = frozenset()
        self._tuples = False
        if len(self.blocks) < 2:
            self.one_segment(self.reason or "it has fewer than two blocks")

    def one_segment(self, reason: str) -> None:
        """Treat the whole network as one segment."""
        self.blocks, self.reason = [], reason

    @property
    def names(self) -> list[str]:
        if not self.blocks:
            return ["the whole network"]
        return ["input", *self.blocks, "output"]

    def __len__(self) -> int:
        return len(self.names)

    def index_of(self, path: str) -> int:
        """The segment that runs the module at `path`."""
        if not self.blocks:
            return 0
        for i, block in enumerate(self.blocks):
            if path == block or path.startswith(block + "."):
                return i + 1
        return 0 if path in self._before else len(self)

    def places(self) -> list[list[Place]]:
        """The sites of each segment. A tied parameter belongs to the first segment that uses it."""
        found: list[list[Place]] = [[] for _ in range(len(self))]
        for place in places(self.module, self.ties):
            at = min(self.index_of(path) for path in place.modules)
            found[min(at, len(self) - 1)].append(place)
        return found

    def tensor_names(self, i: int) -> list[str]:
        """Module names of the tensors that segment `i` needs."""
        every = list(self.module.state_dict(keep_vars=True))
        if not self.blocks:
            return every
        if 0 < i < len(self) - 1:
            return [name for name in every if name.startswith(self.blocks[i - 1] + ".")]
        if i == 0:
            return [name for name in every if name.rpartition(".")[0] in self._before]
        return [name for name in every if not any(name.startswith(block + ".") for block in self.blocks)]

    def probe(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> None:
        """Learn what runs before the blocks, and check that these feed one another; else it is one segment.

        tensors: those outside the blocks. Stand-ins hand on what they get, so in a chain each one is given the very
        tensor that the one before returned, alone or as the first of a tuple.
        """
        if not self.blocks:
            return
        why = "its blocks do not feed one another"
        for self._tuples in (False, True):
            try:
                if self._is_chain(tensors, inputs):
                    return
            except Exception as error:
                why = f"it does not run with its blocks stood in for ({type(error).__name__}: {error})"
        self.one_segment(why)

    def _is_chain(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> bool:
        ran: list[str] = []
        values: list[Any] = []
        handles = [
            layer.register_forward_pre_hook(lambda _layer, _args, path=path: None if values else ran.append(path))
            for path, layer in self.module.named_modules()
            if path not in self.blocks
        ]

        def stand_in(i: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                values.append((i, _split(args, kwargs)[0]))
                if i == len(self.blocks) - 1:
                    raise _Caught
                return self._wrap(values[-1][1])

            return forward

        try:
            with self._stand_ins(stand_in), contextlib.suppress(_Caught):
                self._call(tensors, inputs)
        finally:
            for handle in handles:
                handle.remove()
        self._before = frozenset(ran)
        return [i for i, _ in values] == list(range(len(self.blocks))) and all(v is values[0][1] for _, v in values)

    def head(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> tuple[torch.Tensor, list[Call]]:
        """Run segment 0: the first block's input, and what each block is called with beside it."""
        calls: list[Call] = []
        first: list[torch.Tensor] = []

        def stand_in(i: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                value, rest, named = _split(args, kwargs)
                if i == 0:
                    first.append(value)
                calls.append(Call(rest, named))
                if i == len(self.blocks) - 1:
                    raise _Caught
                return self._wrap(value)

            return forward

        with self._stand_ins(stand_in), contextlib.suppress(_Caught):
            self._call(tensors, inputs)
        return first[0], calls

    def block(self, i: int, tensors: Mapping[str, torch.Tensor], value: torch.Tensor, call: Call) -> torch.Tensor:
        """Run segment i (1-based block) on the running value."""
        from torch.func import functional_call

        path = self.blocks[i - 1]
        own = {name[len(path) + 1 :]: tensor for name, tensor in tensors.items()}
        out = functional_call(self.module.get_submodule(path), own, (value, *call.args), call.kwargs)
        first: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return first

    def tail(self, tensors: Mapping[str, torch.Tensor], inputs: Any, value: torch.Tensor) -> Any:
        """Run the last segment on the last block's output: the network's own output."""

        def stand_in(i: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                last = i == len(self.blocks) - 1
                return self._wrap(value if last else _split(args, kwargs)[0])

            return forward

        with self._stand_ins(stand_in):
            return self._call(tensors, inputs)

    def whole(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> Any:
        """Run a network that is one segment."""
        return self._call(tensors, inputs)

    def _call(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> Any:
        from torch.func import functional_call

        args, kwargs = inputs
        return functional_call(self.module, dict(tensors), args, kwargs, tie_weights=True, strict=False)

    def _wrap(self, value: Any) -> Any:
        return (value,) if self._tuples else value

    @contextlib.contextmanager
    def _stand_ins(self, make: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
        layers = [self.module.get_submodule(path) for path in self.blocks]
        for i, layer in enumerate(layers):
            layer.__dict__["forward"] = make(i)
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["forward"]


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The running value (first argument, or `hidden_states`), and the rest."""
    if args:
        return args[0], args[1:], dict(kwargs)
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest


def to_device(value: Any, device: str) -> Any:
    """Nested tuples, lists and dicts of tensors moved to `device`."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    return value


def model_inputs(module: nn.Module, batch: Any) -> Any:
    """The (args, kwargs) that a forward wants for a batch: token ids, or a float array."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        named = {module.main_input_name: batch}
        if getattr(module.config, "use_cache", None) is not None:
            named["use_cache"] = False
        return (), named
    return (batch,), {}
