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
from rarefy.families.values import NotAChain, has_gradient, has_nan, nans_like, whole_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from rarefy.model import Model


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

    def __init__(self, model: Model) -> None:
        self.module = model.built()
        self.ties = model.skeleton.ties
        family = family_of(self.module)
        self.family = family
        self.blocks: list[str] = []
        self.reason = ""
        self._before: frozenset[str] = frozenset()
        self._tuples = False
        try:
            if family is None:
                raise NotAChain(f"no family knows {type(self.module).__name__}")
            self.blocks = family.blocks(self.module)
            if len(self.blocks) < 2:
                raise NotAChain("it has fewer than two blocks")
        except NotAChain as error:
            self.one_segment(str(error))

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

        tensors: those outside the blocks.
        """
        if not self.blocks:
            return
        reasons = []
        for self._tuples in (False, True):
            try:
                with self._watch() as ran:
                    self.head(tensors, inputs, check=True)
                self._before = frozenset(ran)
                needed = {name: tensors[name] for name in self.tensor_names(0) if name in tensors}
                self._follow(needed, inputs)
                return
            except NotAChain as error:
                reasons.append(str(error))
            except Exception as error:
                reasons.append(f"it does not run with its blocks stood in for ({type(error).__name__}: {error})")
        self.one_segment(reasons[0])

    def _follow(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> None:
        """Run segment 0 with its own tensors. Raises NotAChain when the blocks are given beside the running value what
        its weights make: a gradient would not find back to those."""
        import torch

        learnt = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        followed = {
            name: tensor.detach().requires_grad_(name in learnt and tensor.is_floating_point())
            for name, tensor in tensors.items()
        }
        with torch.enable_grad():
            _, calls = self.head(followed, inputs, check=True)
        if any(has_gradient((call.args, call.kwargs)) for call in calls):
            raise NotAChain("its blocks are given more than the running value: what weights before them make")

    @contextlib.contextmanager
    def _watch(self) -> Iterator[list[str]]:
        """Paths of the modules outside the blocks that run."""
        ran: list[str] = []
        handles = [
            layer.register_forward_pre_hook(lambda _layer, _args, path=path: ran.append(path))
            for path, layer in self.module.named_modules()
            if path not in self.blocks
        ]
        try:
            yield ran
        finally:
            for handle in handles:
                handle.remove()

    def head(
        self, tensors: Mapping[str, torch.Tensor], inputs: Any, *, check: bool = False
    ) -> tuple[torch.Tensor, list[Call]]:
        """Run segment 0: the first block's input, and what each block is called with beside it.

        Stand-ins hand on NaNs, so what depends on a running value shows. Raises NotAChain when a block is not given
        the very tensor that the one before returned, or, with `check`, when its other arguments depend on one.
        """
        calls: list[Call] = []
        values: list[torch.Tensor] = []

        def stand_in(i: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                value, rest, named = _split(args, kwargs)
                if i != len(calls):
                    raise NotAChain("its blocks do not run once each and in order")
                if i > 0 and value is not values[-1]:
                    raise NotAChain("its blocks do not feed one another")
                if i > 0 and check and has_nan((rest, named)):
                    raise NotAChain("its blocks are given more than the running value of the one before")
                if i == 0:
                    values.append(value)
                calls.append(Call(rest, named))
                if i == len(self.blocks) - 1:
                    raise _Caught
                values.append(nans_like(value))
                return self._wrap(values[-1])

            return forward

        with self._stand_ins(stand_in), contextlib.suppress(_Caught), whole_only(check):
            self._call(tensors, inputs)
        if len(calls) < len(self.blocks):
            raise NotAChain("some of its blocks do not run")
        return values[0], calls

    def block(self, i: int, tensors: Mapping[str, torch.Tensor], value: torch.Tensor, call: Call) -> torch.Tensor:
        """Run segment i (1-based block) on the running value. Raises NotAChain when it returns something else."""
        import torch
        from torch.func import functional_call

        path = self.blocks[i - 1]
        own = {name[len(path) + 1 :]: tensor for name, tensor in tensors.items()}
        out = functional_call(self.module.get_submodule(path), own, (value, *call.args), call.kwargs)
        first = out[0] if self._tuples and isinstance(out, tuple) else out
        if not isinstance(first, torch.Tensor):
            raise NotAChain(f"{path} returns a {type(first).__name__}, not a tensor")
        return first

    def tail(
        self, tensors: Mapping[str, torch.Tensor], inputs: Any, value: torch.Tensor, *, check: bool = False
    ) -> Any:
        """Run the last segment on the last block's output: the network's own output.

        Raises NotAChain, with `check`, when that output depends on more than `value`.
        """

        def stand_in(i: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                last = i == len(self.blocks) - 1
                return self._wrap(value if last else nans_like(_split(args, kwargs)[0]))

            return forward

        why = "what comes after its blocks takes more than the last one's output"
        with self._stand_ins(stand_in), whole_only(check):
            try:
                out = self._call(tensors, inputs)
            except RuntimeError as error:
                raise (NotAChain(f"{why} ({error})") if check else error) from None
        if check and has_nan(out) and not has_nan(value):
            raise NotAChain(why)
        return out

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
