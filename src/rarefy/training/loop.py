"""The loop: AdamW over given tensors, in one process or many, and again from where it was killed.

What a loss is made of is the caller's: the loop hands out the numbers of the batches and moves the leaves. Order and
random numbers of a step follow from the seed and the step alone, so that a training that goes on from a checkpoint
ends in the bytes of one that was never stopped.

AdamW: Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rarefy.errors import RarefyError
from rarefy.progress import Progress, Silent
from rarefy.training.checkpoint import Checkpoint, identity_of
from rarefy.training.schedule import cosine

if TYPE_CHECKING:
    from pathlib import Path

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Training:
    """How to train.

    steps: of the optimizer. accumulate: batches a step; the step follows the mean of their gradients.
    rate: learning rate at its highest; warmup: share of the steps in which it rises to that, before a cosine.
    clip: norm beyond which a step's gradient is shortened; 0: never.
    decay, betas: of AdamW. every: steps between checkpoints.
    mixed: products in bfloat16 by autocast, everything else in float32.
    """

    steps: int
    accumulate: int = 1
    rate: float = 1e-3
    warmup: float = 0.1
    clip: float = 1.0
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    every: int = 10
    mixed: bool = False


def train(
    leaves: Mapping[str, torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    batches: int,
    plan: Training,
    *,
    seed: int = 0,
    beside: Mapping[str, torch.Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    what: str = "training",
) -> list[float]:
    """Move `leaves` (float32, in place) down the mean loss over `batches` batches; the loss in each step done now.

    loss: number of a batch, 0 to `batches` - 1, to its mean loss.
    beside: tensors that the loss changes in place by itself, such as masks; checkpoints hold them too.
    checkpoint: file that holds the state every `plan.every` steps and at the end, so that a killed training goes on;
        one of another training (settings, seed, starting values) is ignored and replaced.

    Under `torchrun` the batches of a step are shared out over the processes and gradients are summed.

    Raises RarefyError when the loss is not finite.
    """
    from accelerate import PartialState

    for leaf in leaves.values():
        leaf.requires_grad_(True)
    device = next(iter(leaves.values())).device
    beside = beside or {}
    state = PartialState(cpu=device.type == "cpu")
    optimizer = torch.optim.AdamW(leaves.values(), plan.rate, plan.betas, weight_decay=plan.decay, fused=True)
    kept = (
        None if checkpoint is None else Checkpoint(checkpoint, identity_of((plan, batches, seed), {**leaves, **beside}))
    )
    done = 0 if kept is None else _resume(kept, leaves, beside, optimizer)
    losses: list[float] = []
    with (progress or Silent()).task(what, plan.steps, done) as advance:
        for step in range(done, plan.steps):
            optimizer.param_groups[0]["lr"] = plan.rate * cosine(step, plan.steps, plan.warmup)
            drawn = _drawn(batches, plan.accumulate, step, seed)
            with _random(seed, step, device):
                losses.append(_descend(leaves, loss, drawn, plan, state, optimizer, step))
            due = (step + 1) % plan.every == 0 or step + 1 == plan.steps
            if kept is not None and due and state.is_main_process:
                kept.save(step + 1, _state(leaves, beside, optimizer))
            advance(1)
    return losses


def _descend(
    leaves: Mapping[str, torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    drawn: list[int],
    plan: Training,
    state: object,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> float:
    """One step over the batches `drawn`; their mean loss."""
    rank, world = state.process_index, state.num_processes  # type: ignore[attr-defined]
    device = next(iter(leaves.values())).device
    total = torch.zeros((), device=device)
    for batch in drawn[rank::world]:
        with torch.autocast(device.type, torch.bfloat16) if plan.mixed else contextlib.nullcontext():
            part = loss(batch) / len(drawn)
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    if world > 1:
        _sum(leaves, total)
    if not math.isfinite(float(total)):
        raise RarefyError(f"the loss is not a number in step {step + 1}", remedy="lower the rate")
    if plan.clip:
        torch.nn.utils.clip_grad_norm_(leaves.values(), plan.clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(total)


def _sum(leaves: Mapping[str, torch.Tensor], total: torch.Tensor) -> None:
    """Sum gradients and loss over the processes, in one message."""
    from accelerate.utils import reduce

    for leaf in leaves.values():
        leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    parts = [total, *(leaf.grad for leaf in leaves.values() if leaf.grad is not None)]
    message = reduce(torch.cat([part.reshape(-1) for part in parts]), "sum")
    for part, summed in zip(parts, message.split([part.numel() for part in parts]), strict=True):
        part.copy_(summed.reshape(part.shape))


def _drawn(batches: int, accumulate: int, step: int, seed: int) -> list[int]:
    """The batches of a step: without replacement until all were seen, then in another order."""
    found = []
    for k in range(step * accumulate, (step + 1) * accumulate):
        epoch, place = divmod(k, batches)
        found.append(int(np.random.default_rng((seed, epoch)).permutation(batches)[place]))
    return found


@contextlib.contextmanager
def _random(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Random numbers of a step's own, for losses that draw some; those of the caller are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))
        yield


def _state(
    leaves: Mapping[str, torch.Tensor], beside: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Leaves, of each the optimizer's moments, and what is kept beside them."""
    tensors = {f"leaf.{name}": leaf for name, leaf in leaves.items()}
    tensors |= {f"beside.{name}": tensor for name, tensor in beside.items()}
    for name, leaf in leaves.items():
        for moment in _MOMENTS:
            if leaf in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[leaf][moment]
    return tensors


def _resume(
    kept: Checkpoint,
    leaves: Mapping[str, torch.Tensor],
    beside: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put back what the checkpoint holds; the steps that are done."""
    found = kept.load()
    if found is None:
        return 0
    step, tensors = found
    with torch.no_grad():
        for name, tensor in beside.items():
            tensor.copy_(tensors[f"beside.{name}"])
        for name, leaf in leaves.items():
            leaf.copy_(tensors[f"leaf.{name}"])
            if f"exp_avg.{name}" in tensors:
                # A fused AdamW counts its steps where the leaf is.
                optimizer.state[leaf] = {moment: tensors[f"{moment}.{name}"].to(leaf.device) for moment in _MOMENTS}
    return step
