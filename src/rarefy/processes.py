"""Several processes at one piece of work, as `torchrun` starts them: each takes its share of the micro-batches.

All go through the same steps. What they see of the data is summed; what is decided, coded and written the first does
for all, and says so. Messages are tensors and JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from rarefy.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

T = TypeVar("T")

PATIENCE: Final = timedelta(hours=2)
"""How long one waits for another, which may be coding a large segment meanwhile. One that ends is noticed at once."""


def started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def beside() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if started() > 1 else 1


def rank() -> int:
    """The number of this one; 0 is the first, which speaks for all."""
    return int(os.environ.get("RANK") or 0) if started() > 1 else 0


@dataclass(frozen=True)
class Processes:
    """`world` processes, of which this is number `rank`; by default this one alone.

    Every method but `share` must be called by all of them, in the same order. Raises ResourceError when another one
    has ended.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls, device: str = "cpu") -> Processes:
        """All that were started together, ready to talk; on CUDA each with a device of its own."""
        if started() == 1:
            return cls()
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            with _talking("cannot join the other processes"):
                backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
                distributed.init_process_group(backend, timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this one decides, codes and writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `world`-th of some items: this process' part."""
        return items[self.rank :: self.world]

    def once(self, do: Callable[[], T]) -> T:
        """What `do` gives (a JSON value), done by the first alone."""
        return self._said(do() if self.first else None, 0)  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """The value (of JSON) that each has, in order."""
        return [self._said(value, rank) for rank in range(self.world)]

    def sum(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sums by name, in place where a process has that part; one that lacks it adds nothing."""
        import torch
        from torch import distributed

        if self.world == 1:
            return dict(parts)
        made = dict(parts)
        forms = self.gather({name: [*part.shape] for name, part in parts.items()})
        kinds = self.gather({name: [str(part.dtype)[6:], part.device.type] for name, part in parts.items()})
        shapes = {name: shape for form in forms for name, shape in form.items()}
        types = {name: kind for held in kinds for name, kind in held.items()}
        with _talking():
            for name in sorted(shapes):
                dtype, device = types[name]
                if name not in made:
                    made[name] = torch.zeros(shapes[name], dtype=getattr(torch, dtype), device=device)
                distributed.all_reduce(made[name])
        return made

    def _said(self, value: T, rank: int) -> T:
        """What number `rank` has for a value."""
        import torch
        from torch import distributed

        if self.world == 1:
            return value
        own = rank == self.rank
        data = bytearray(json.dumps(value).encode() if own else b"")
        size = torch.tensor(len(data))
        with _talking():
            distributed.broadcast(size, rank)
            message = torch.frombuffer(data, dtype=torch.uint8) if own else torch.empty(int(size), dtype=torch.uint8)
            distributed.broadcast(message, rank)
        said: T = value if own else json.loads(message.numpy().tobytes())
        return said


@contextlib.contextmanager
def _talking(what: str = "another process of this run has ended") -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # The libraries' own words: what went wrong is said before the first full stop.
        why = str(error).partition(". ")[0]
        raise ResourceError(what, why, "see what it said, then run the same command again to go on") from error
