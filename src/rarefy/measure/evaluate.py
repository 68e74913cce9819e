"""One network on held-out data, alone or against its original: score, distortion, and what lies between.

Data stream through in micro-batches; of the outputs only a few figures a block are kept, so memory
holds one batch of logits of each network. Both networks see the same batch in turn, which pairs
every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rarefy.errors import RarefyError, UsageError
from rarefy.evidence.sources import Arrays
from rarefy.measure import statistics
from rarefy.measure.divergence import Law, gaussian_kl
from rarefy.measure.evaluation import Evaluation, summed_up
from rarefy.measure.tasks import Data, Network, Task, task_of

Progress = Callable[[int, int], None]
"""Called with the blocks done and the blocks in all."""

HALF_PRECISION_NOISE = 0.003  # nats; a network in bfloat16 against itself in float32 gives 0.0012


def evaluate(
    network: Network,
    data: Data,
    *,
    against: Network | None = None,
    device: torch.device | str | None = None,
    batch: int | None = None,
    law: Law | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a network on held-out data.

    Args:
        network: a module or callable, as ``measure.tasks`` says for each kind of data. Modules are put
            in evaluation mode for the while.
        data: token blocks, sentences, or arrays.
        against: the original network, for distortion and paired differences.
        device: of the inputs; left out, that of the network's parameters.
        batch: blocks at a time; left out, about 512 tokens or four MB of inputs.
        law: the output law, where the data do not tell it: ``divergence.gaussian_kl`` for a
            regression without targets.
        progress: told of every batch.

    Raises:
        UsageError: the data do not fit the network, or the two networks' outputs differ in shape.
        RarefyError: an output is not a number.
    """
    task = task_of(data, law)
    where = torch.device(device) if device is not None else _device(network)
    size = task.batch if batch is None else batch
    if size < 1:
        raise UsageError("a batch needs at least one block", f"got {size}")
    kept: dict[str, list[Tensor]] = {}
    spread = _Spread()
    with _evaluating(network, against), torch.inference_mode():
        for start in range(0, task.blocks, size):
            rows = slice(start, min(start + size, task.blocks))
            for name, values in _measured(task, network, against, rows, where, spread).items():
                _refuse_nan(values, start)
                kept.setdefault(name, []).append(values.cpu())
            if progress is not None:
                progress(rows.stop, task.blocks)
    figures = {name: torch.cat(values).numpy() for name, values in kept.items()}
    if task.law is gaussian_kl and "kl" in figures:
        figures["kl"] = figures["kl"] / spread.variance()
    return summed_up(task.blocks, _digest(data), figures, _warnings(task, network, against))


def _measured(
    task: Task, network: Network, against: Network | None, rows: slice, device: torch.device, spread: _Spread
) -> dict[str, Tensor]:
    """Figures of one batch; its logits die with this frame."""
    outputs = task.outputs(network, rows, device)
    _refuse_nan(outputs.flatten(1).amax(1), rows.start)
    found = task.score(outputs, rows)
    if against is None:
        return found
    originals = task.outputs(against, rows, device)
    if originals.shape != outputs.shape:
        shapes = f"{tuple(originals.shape)} and {tuple(outputs.shape)}"
        raise UsageError("the two networks cannot be compared", f"their outputs have shapes {shapes}")
    found |= {f"reference {name}": values for name, values in task.score(originals, rows).items()}
    kl = task.law(originals, outputs).double()
    found["kl"] = kl.reshape(len(kl), -1).mean(1)
    if task.law is gaussian_kl:
        spread.add(originals)
    return found


class _Spread:
    """Variance of outputs that pass by once, averaged over their coordinates."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, outputs: Tensor) -> None:
        values = outputs.double().reshape(-1, outputs.shape[-1])
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def variance(self) -> float:
        mean = torch.as_tensor(self.total) / self.count
        variance = float((torch.as_tensor(self.squares) / self.count - mean.square()).mean())
        if variance <= 0.0:
            raise UsageError("a regression's distortion has no unit", "the original's outputs do not vary")
        return variance


def _refuse_nan(values: Tensor, start: int) -> None:
    missing = values.isnan().nonzero()
    if len(missing):
        raise RarefyError("the network's output is not a number", f"in block {start + int(missing[0])}")


def _warnings(task: Task, *networks: Network | None) -> tuple[str, ...]:
    found = [statistics.too_few(task.blocks)]
    halves = (torch.bfloat16, torch.float16)
    if networks[1] is not None and any(p.dtype in halves for n in networks for p in _parameters(n)):
        found.append(f"a network ran in half precision: a KL below {HALF_PRECISION_NOISE} is noise")
    return tuple(warning for warning in found if warning is not None)


def _parameters(network: Network | None) -> Iterator[Tensor]:
    if isinstance(network, nn.Module):
        yield from network.parameters()


def _device(network: Network) -> torch.device:
    return next((p.device for p in _parameters(network)), torch.device("cpu"))


@contextmanager
def _evaluating(*networks: Network | None) -> Iterator[None]:
    """Modules in evaluation mode; each submodule gets back the mode it had."""
    modules = chain.from_iterable(n.modules() for n in networks if isinstance(n, nn.Module))
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _digest(data: Data) -> str:
    """Names the data exactly, so that only figures of the same blocks are ever paired."""
    arrays: Iterable[NDArray[Any] | None] = (data.x, data.y) if isinstance(data, Arrays) else data.ids
    found = sha256()
    for array in arrays:
        if array is not None:
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
