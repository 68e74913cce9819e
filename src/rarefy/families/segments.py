"""Segments: a network cut where the walk may hold one piece in memory at a time.

Segment 0 is what runs before the first block, then come the blocks, the last is what runs after them; of an encoder and
a decoder, each a stack of blocks, what runs between the two is a segment too. The pieces around the blocks run inside
the network's own forward, with the blocks replaced by stand-ins that catch what they are given: so masks, position
embeddings and every other argument are the real ones.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from rarefy.families import carried
from rarefy.families.carried import Call, Route
from rarefy.families.layout import Layout
from rarefy.families.stand_ins import Caught, Form, StandIns, Through, split
from rarefy.families.values import NotAChain, has_gradient, has_nan, whole_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from rarefy.model import Model


class Segments(Layout):
    """A network's segments. Modules have no weights of their own: every run is given its tensors."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._stand_ins = StandIns(self.module, self.blocks)
        self._forget()

    def probe(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> None:
        """Learn what runs around the blocks and how the running value goes through them, and check that they feed one
        another; else it is one segment.

        tensors: those outside the blocks.
        """
        if not self.stacks:
            return
        reasons = []
        for self._stand_ins.form in Form:
            self._forget()
            try:
                with self._watch() as ran:
                    self.head(tensors, inputs, check=True)
                self._ran = self._divided(ran)
                needed = {name: tensors[name] for name in self.tensor_names(0) if name in tensors}
                self._follow(needed, inputs)
                return
            except NotAChain as error:
                reasons.append(str(error))
            except Exception as error:
                reasons.append(f"it does not run with its blocks stood in for ({type(error).__name__}: {error})")
        self.one_segment(reasons[0])

    def _forget(self) -> None:
        """Know of no block that it is given more than its hidden states."""
        self._routes: list[Route] = [Route()] * len(self.blocks)

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
        """Paths of the modules that run, in order; of the blocks not what they hold."""
        ran: list[str] = []
        inner = tuple(f"{block}." for block in self.blocks)
        handles = [
            layer.register_forward_pre_hook(lambda _layer, _args, path=path: ran.append(path))
            for path, layer in self.module.named_modules()
            if not path.startswith(inner)
        ]
        try:
            yield ran
        finally:
            for handle in handles:
                handle.remove()

    def _divided(self, ran: Sequence[str]) -> list[frozenset[str]]:
        """Of all modules that ran those outside the blocks, up to each stack's last block. Raises NotAChain when one
        with weights ran in two of these parts: only its first use would be seen."""
        parts, start, blocks = [], 0, frozenset(self.blocks)
        for stack in self.stacks:
            end = ran.index(stack[-1])
            parts.append(frozenset(ran[start:end]) - blocks)
            start = end
        again = frozenset[str]().union(*(one & other for one, other in itertools.combinations(parts, 2)))
        if any(self.module.get_submodule(path)._parameters for path in again):
            raise NotAChain("a part of it runs both before and between its stacks")
        return parts

    def head(
        self, tensors: Mapping[str, torch.Tensor], inputs: Any, *, check: bool = False
    ) -> tuple[torch.Tensor, list[Call]]:
        """Run segment 0: the running value for the first block, and what each block is called with beside it.

        Stand-ins hand on NaNs, so what depends on a running value shows. Raises NotAChain when a block is not given
        the very tensors that the one before returned or was given, or, with `check`, when its other arguments depend
        on one.
        """
        starts = frozenset(self.blocks.index(stack[0]) for stack in self.stacks)
        through = Through(self._stand_ins, starts, self._routes, check)
        with self._stand_ins.standing(through), contextlib.suppress(Caught), whole_only(check):
            self._call(tensors, inputs)
        if len(through.calls) < len(self.blocks):
            raise NotAChain("some of its blocks do not run")
        return carried.join(through.entered), through.calls

    def run(
        self,
        i: int,
        tensors: Mapping[str, torch.Tensor],
        inputs: Any,
        value: torch.Tensor,
        calls: Sequence[Call],
        *,
        check: bool = False,
    ) -> Any:
        """Run segment i > 0 on the running value: the running value after it, or the network's output.

        calls: what `head` found. Raises NotAChain when a block does not return what it should or, with `check`, when
        another segment takes more than the running value.
        """
        layout = self.layout
        number = sum(block is not None for block in layout[:i])
        if layout[i] is not None:
            return self._block(number, tensors, value, calls[number])
        if i == len(layout) - 1:
            return self._tail(tensors, inputs, value, check)
        return self._between(number, tensors, inputs, value, calls[number], check)

    def _block(self, number: int, tensors: Mapping[str, torch.Tensor], value: torch.Tensor, call: Call) -> torch.Tensor:
        """Run block `number` on the running value. Raises NotAChain when it returns something else."""
        import torch
        from torch.func import functional_call

        path = self.blocks[number]
        own = {name[len(path) + 1 :]: tensor for name, tensor in tensors.items()}
        entered = carried.part(value, call.shapes)
        args, kwargs = carried.fill(call, entered)
        out = functional_call(self.module.get_submodule(path), own, (entered[0], *args), kwargs)
        first = out[0] if self._stand_ins.form is not Form.TENSOR and isinstance(out, tuple) else out
        if not isinstance(first, torch.Tensor):
            raise NotAChain(f"{path} returns a {type(first).__name__}, not a tensor")
        left = self._routes[number].out(out, entered)
        if len(left) > 1 and first.shape != entered[0].shape:
            raise NotAChain(f"{path} changes the shape of its hidden states")
        return carried.join([first, *left[1:]])

    def _between(
        self,
        number: int,
        tensors: Mapping[str, torch.Tensor],
        inputs: Any,
        value: torch.Tensor,
        call: Call,
        check: bool,
    ) -> torch.Tensor:
        """Run what comes before block `number`, which begins a stack, on what the block before it handed on: that
        block's running value. call: of that block.

        Raises NotAChain when its shapes are not those that `head` found, or, with `check`, when it depends on more
        than `value`.
        """
        entering: list[torch.Tensor] = []
        fed = self._fed(number, value, [])

        def run(i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if i < number:
                return fed(i, args, kwargs)
            entering.extend(self._routes[i].split(*split(args, kwargs))[0])
            raise Caught

        why = "what comes between its stacks takes more than what the one before hands on"
        with self._stand_ins.standing(run), contextlib.suppress(Caught), whole_only(check), _explained(why, check):
            self._call(tensors, inputs)
        if call.shapes and carried.shapes(entering) != call.shapes:
            raise NotAChain("its blocks change the shapes of what they hand on")
        made = carried.join(entering)
        if check and has_nan(made) and not has_nan(value):
            raise NotAChain(why)
        return made

    def _tail(self, tensors: Mapping[str, torch.Tensor], inputs: Any, value: torch.Tensor, check: bool) -> Any:
        """Run the last segment on the last block's running value: the network's own output.

        Raises NotAChain, with `check`, when that output depends on more than `value`.
        """
        handed: list[tuple[torch.Tensor, torch.Tensor]] = []
        fed = self._fed(len(self.blocks), value, handed)
        why = "what comes after its blocks takes more than the last one's output"
        with self._stand_ins.standing(fed), whole_only(check), _explained(why, check):
            out = self._call(tensors, inputs)
        if len(handed) > 1:  # what blocks were given may be among the network's own outputs
            out = carried.exchange(out, handed)
        if check and has_nan(out) and not has_nan(value):
            raise NotAChain(why)
        return out

    def _fed(
        self, number: int, value: torch.Tensor, handed: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> Callable[[int, tuple[Any, ...], dict[str, Any]], Any]:
        """Stand-ins of which the one before block `number` gives `value`. handed: filled with what stands for the
        running value's tensors, and these."""

        def run(i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            made = self._stand_ins.likeness(i, args, kwargs)
            if i < number - 1:
                return made
            route = self._routes[i]
            entered, _ = route.split(*split(args, kwargs))
            left = route.out(made, entered)
            handed.extend(zip(left, carried.part(value, carried.shapes(left)), strict=True))
            return carried.exchange(made, handed)

        return run

    def whole(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> Any:
        """Run a network that is one segment."""
        return self._call(tensors, inputs)

    def _call(self, tensors: Mapping[str, torch.Tensor], inputs: Any) -> Any:
        from torch.func import functional_call

        args, kwargs = inputs
        owned: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():  # torch fails where it is given some of three tied names
            owned.setdefault(self.ties.get(name, name), tensor)
        return functional_call(self.module, owned, args, kwargs, tie_weights=True, strict=False)


@contextlib.contextmanager
def _explained(why: str, check: bool) -> Iterator[None]:
    """With `check`, torch's own errors are those of a network that is no chain."""
    try:
        yield
    except RuntimeError as error:
        raise (NotAChain(f"{why} ({error})") if check else error) from None
