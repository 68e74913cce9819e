"""Stand-ins: what a network runs with in the place of its blocks. They hand on NaNs, so what depends on one shows."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING, Any

from rarefy.families import carried
from rarefy.families.carried import MORE, Call, Route
from rarefy.families.values import NotAChain, has_nan, nans_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import nn


class Caught(Exception):
    """Raised by a stand-in when nothing that comes after it is wanted."""


class Form(enum.Enum):
    """What blocks return: a tensor, it alone in a tuple, or what a run on the meta device shows."""

    TENSOR = enum.auto()
    TUPLE = enum.auto()
    SHOWN = enum.auto()


class StandIns:
    """Of the blocks at `paths` in `module`. form: of what they return."""

    def __init__(self, module: nn.Module, paths: Sequence[str]) -> None:
        self.layers = [module.get_submodule(path) for path in paths]
        self.form = Form.TENSOR
        self._shown: dict[Any, Any] = {}

    @contextlib.contextmanager
    def standing(self, run: Callable[[int, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
        """Inside, block i called with `args` and `kwargs` gives `run(i, args, kwargs)`."""
        for i, layer in enumerate(self.layers):
            layer.__dict__["forward"] = lambda *args, i=i, **kwargs: run(i, args, kwargs)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.__dict__["forward"]

    def likeness(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """NaNs in the form of what block i returns when called so."""
        if self.form is Form.SHOWN:
            return self._as_shown(i, args, kwargs)
        made = nans_like(split(args, kwargs)[0])
        return (made,) if self.form is Form.TUPLE else made

    def _as_shown(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import torch
        from torch.utils import _pytree as pytree

        value = split(args, kwargs)[0]
        leaves, form = pytree.tree_flatten((args, kwargs))
        given = [leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        key = i, *((leaf.shape, leaf.dtype) for leaf in given if isinstance(leaf, torch.Tensor))
        if key not in self._shown:
            self._shown[key] = self._show(i, pytree.tree_unflatten(given, form), value.dtype)

        def nans(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return nans_like(torch.empty(leaf.shape, dtype=leaf.dtype, device=value.device))

        return pytree.tree_map(nans, self._shown[key])

    def _show(self, i: int, given: Any, dtype: torch.dtype) -> Any:
        """What block i itself returns on the meta device for (args, kwargs), computing in `dtype`."""
        import torch
        from torch.func import functional_call
        from torch.utils._python_dispatch import _disable_current_modes

        layer = self.layers[i]
        stand_in = layer.__dict__.pop("forward")
        try:
            with _disable_current_modes(), torch.no_grad():
                own = {
                    name: torch.empty_like(tensor, device="meta", dtype=dtype if tensor.is_floating_point() else None)
                    for name, tensor in (*layer.named_parameters(), *layer.named_buffers())
                }
                return functional_call(layer, own, *given)
        finally:
            layer.__dict__["forward"] = stand_in


class Through:
    """One run through all blocks, which proves that each is fed by the one before.

    entered: the running value's tensors as the first block is given them. calls: what each is given beside them.
    """

    def __init__(self, stand_ins: StandIns, starts: frozenset[int], routes: list[Route], check: bool) -> None:
        """starts: numbers of the blocks that begin a stack, which are fed by what runs between. routes: of the blocks;
        with `check` they are found, and what else a block is given is looked at."""
        self.stand_ins, self.starts, self.routes, self.check = stand_ins, starts, routes, check
        self.entered: list[torch.Tensor] = []
        self.calls: list[Call] = []
        self._entered: list[torch.Tensor] = []
        self._returned: list[Any] = []

    def __call__(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for block i."""
        from torch.utils import _pytree as pytree

        value, rest, named = split(args, kwargs)
        if i != len(self.calls):
            raise NotAChain("its blocks do not run once each and in order")
        if i not in self.starts and value is not self._returned[0]:
            raise NotAChain("its blocks do not feed one another")
        if self.check and i > 0:
            self._find(i, value, rest, named)
        self._entered, call = self.routes[i].split(value, rest, named)
        if i > 0 and (self.check or self.routes[i].slots) and has_nan((call.args, call.kwargs)):
            raise NotAChain(MORE)
        self.entered = self.entered or self._entered
        self.calls.append(call)
        if len(self.calls) == len(self.routes):
            raise Caught
        made = self.stand_ins.likeness(i, args, kwargs)
        self._returned = pytree.tree_leaves(made)
        return made

    def _find(self, i: int, value: torch.Tensor, rest: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The route to block i and through it."""
        entering, slots = carried.find(value, rest, named)
        if i not in self.starts:
            sources = carried.sources(entering, self._returned, self._entered)
            self.routes[i - 1] = Route(self.routes[i - 1].slots, sources)
        self.routes[i] = Route(slots)
        if i == len(self.routes) - 1:
            self.routes[i] = self.routes[i].ending()


def split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The hidden states (first argument, or `hidden_states`), and the rest."""
    if args:
        return args[0], args[1:], dict(kwargs)
    rest = dict(kwargs)
    return rest.pop("hidden_states"), (), rest
