"""Networks on held-out data, alone or against their original: scores, distortion, and what lies between.

Data stream through in micro-batches; of the outputs only a few figures a block are kept, so memory
holds one batch of logits of the original and of one network. All networks see the same batch in
turn, which pairs every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from rarefy.errors import RarefyError, UsageError
from rarefy.measure import statistics
from rarefy.measure.divergence import Law, gaussian_kl
from rarefy.measure.evaluation import Evaluation, Figures, differences, scores
from rarefy.measure.tasks import Data, Network, Task, task_of
from rarefy.units import Interval

Progress = Callable[[int, int], None]
"""Called with the blocks done and the blocks in all."""

HALF_PRECISION_NOISE = 0.003  # nats; a network in bfloat16 against itself in float32 gives 0.0012

ORIGINAL = "the original"


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
        data: token blocks, sentences, scored pairs of sentences, or arrays.
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
    found = measure(
        {"the network": network}, data, original=against, device=device, batch=batch, law=law, progress=progress
    )
    figures = found.networks["the network"]
    if found.original is None:
        return scores(found.blocks, figures, warnings=found.warnings)
    reference = scores(found.blocks, replace(found.original, kl=None))
    return scores(
        found.blocks,
        figures,
        reference=reference,
        difference=_difference(figures, found.original),
        warnings=found.warnings,
    )


@dataclass(frozen=True)
class Measured:
    """Figures of every network, by name, and of the original, on the same blocks."""

    blocks: int
    networks: Mapping[str, Figures]
    original: Figures | None
    warnings: tuple[str, ...]


def measure(
    networks: Mapping[str, Network],
    data: Data,
    *,
    original: Network | None = None,
    device: torch.device | str | None = None,
    batch: int | None = None,
    law: Law | None = None,
    progress: Progress | None = None,
) -> Measured:
    """The figures of all networks in one pass over the data; arguments and errors as in ``evaluate``."""
    task = task_of(data, law)
    everyone = [*([] if original is None else [(ORIGINAL, original)]), *networks.items()]
    where = torch.device(device) if device is not None else _device(next(iter(networks.values())))
    size = task.batch if batch is None else batch
    if size < 1:
        raise UsageError("a batch needs at least one block", f"got {size}")
    kept: list[dict[str, list[Tensor]]] = [{} for _ in everyone]
    spread = _Spread()
    with _evaluating(*(network for _, network in everyone)), torch.inference_mode():
        for start in range(0, task.blocks, size):
            rows = slice(start, min(start + size, task.blocks))
            reference: Tensor | None = None
            for found, (name, network) in zip(kept, everyone, strict=True):
                outputs = _outputs(task, name, network, rows, where)
                if original is not None and found is kept[0]:
                    reference = outputs
                for figure, values in _figures(task, name, outputs, reference, rows).items():
                    found.setdefault(figure, []).append(values.cpu())
                del outputs  # before the next network makes its own
            if task.law is gaussian_kl and reference is not None:
                spread.add(reference)
            if progress is not None:
                progress(rows.stop, task.blocks)
    unit = spread.variance() if spread.count else 1.0
    figures = [_joined(values, unit) for values in kept]
    theirs = None if original is None else figures.pop(0)
    warnings = _warnings(task, original is not None, *(network for _, network in everyone))
    return Measured(task.blocks, dict(zip(networks, figures, strict=True)), theirs, warnings)


def _outputs(task: Task, name: str, network: Network, rows: slice, device: torch.device) -> Tensor:
    outputs = task.outputs(network, rows, device)
    _refuse_nan(name, outputs.flatten(1).amax(1), rows.start)
    return outputs


def _figures(task: Task, name: str, outputs: Tensor, reference: Tensor | None, rows: slice) -> dict[str, Tensor]:
    """Figures of one batch; an original's distance from itself is zero by name, not by arithmetic."""
    found = task.score(outputs, rows)
    if reference is outputs:
        found["kl"] = torch.zeros(len(outputs), dtype=torch.float64)
    elif reference is not None:
        if reference.shape != outputs.shape:
            shapes = f"{tuple(reference.shape)} and {tuple(outputs.shape)}"
            raise UsageError("the two networks cannot be compared", f"their outputs have shapes {shapes}")
        kl = task.law(reference, outputs).double()
        found["kl"] = kl.reshape(len(kl), -1).mean(1)
    for values in found.values():
        if values.is_floating_point():
            _refuse_nan(name, values, rows.start)
    return found


def _joined(kept: Mapping[str, list[Tensor]], unit: float) -> Figures:
    found = {name: torch.cat(values).numpy() for name, values in kept.items()}
    if "kl" in found:
        found["kl"] = found["kl"] / unit
    return Figures(**found)


def _difference(a: Figures, b: Figures) -> Interval | None:
    found = differences(a, b)
    shown = [found[name].interval() for name in ("perplexity", "accuracy", "spearman") if name in found]
    return shown[0] if shown else None


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


def _refuse_nan(name: str, values: Tensor, start: int) -> None:
    missing = values.isnan().nonzero()
    if len(missing):
        raise RarefyError(f"{name}'s output is not a number", f"in block {start + int(missing[0])}")


def _warnings(task: Task, against: bool, *networks: Network) -> tuple[str, ...]:
    found = [statistics.too_few(task.blocks)]
    halves = (torch.bfloat16, torch.float16)
    if against and any(p.dtype in halves for n in networks for p in _parameters(n)):
        found.append(f"a network ran in half precision: a KL below {HALF_PRECISION_NOISE} is noise")
    return tuple(warning for warning in found if warning is not None)


def _parameters(network: Network) -> Iterator[Tensor]:
    if isinstance(network, nn.Module):
        yield from network.parameters()


def _device(network: Network) -> torch.device:
    return next((p.device for p in _parameters(network)), torch.device("cpu"))


@contextmanager
def _evaluating(*networks: Network) -> Iterator[None]:
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
