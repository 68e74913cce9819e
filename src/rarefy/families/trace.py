"""Following a forward pass without values: which modules run before the blocks, and whether these feed one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Trace:
    """What a pass showed.

    chain: every block ran once, in order, and its first argument is the very output of the block before.
    before: paths of the modules that ran before the first block.
    lengths: per block, 0 when it returned a tensor, else the length of the tuple that it returned.
    """

    chain: bool
    before: frozenset[str]
    lengths: list[int]


def trace(module: nn.Module, blocks: list[str], inputs: Any) -> Trace:
    """Run `module` on the meta device under hooks. Raises whatever the forward raises."""
    args, kwargs = inputs
    order: list[str] = []
    given: list[Any] = []
    returned: list[Any] = []
    ran: list[str] = []
    wanted = set(blocks)

    def enter(path: str) -> Any:
        def hook(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path in wanted:
                order.append(path)
                given.append(args[0] if args else kwargs.get("hidden_states"))
            elif not order:
                ran.append(path)

        return hook

    def leave(_layer: nn.Module, _args: Any, out: Any) -> None:
        returned.append(out)

    handles = [m.register_forward_pre_hook(enter(p), with_kwargs=True) for p, m in module.named_modules()]
    handles += [module.get_submodule(path).register_forward_hook(leave) for path in blocks]
    buffers = {name: buffer for name, buffer in module.named_buffers()}
    try:
        from torch.func import functional_call

        functional_call(module, {name: b.to("meta") for name, b in buffers.items()}, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    first = [out[0] if isinstance(out, tuple) else out for out in returned]
    chain = order == blocks and all(given[i + 1] is first[i] for i in range(len(blocks) - 1))
    lengths = [len(out) if isinstance(out, tuple) else 0 for out in returned]
    return Trace(chain, frozenset(ran), lengths)
