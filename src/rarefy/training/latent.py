"""Training behind codes: what is stored is made anew from latent values in every step, and the loss sees only that.

A latent value is what moves; what the network computes with is its projection, say the nearest point of a grid. The
rounding itself has no gradient; methods let it pass straight through (Bengio, Léonard and Courville 2013).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.func import functional_call

from rarefy.codes import Code, Dense
from rarefy.evidence import Site, Visited, relative_error
from rarefy.families import places
from rarefy.families.values import model_inputs, to_device
from rarefy.files import container, record
from rarefy.model import Model, decoded
from rarefy.training.footprint import footprint as forward
from rarefy.training.loop import Training, train
from rarefy.units import human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rarefy.evidence import Evidence
    from rarefy.training.lessons import Lessons

Values = dict[str, torch.Tensor]
"""Tensors by name: those that require a gradient are trained, the others are only kept."""

BYTES = 56
"""A weight's latent, its gradient and two moments, its projection and that one's gradient, and what a penalty makes."""


@dataclass
class State:
    """Where a training stands.

    step, steps: done and in all. examples: that it learns from. sites, latents: by parameter. held: what else the
    method remembers between steps.
    """

    model: Model
    examples: int
    step: int = 0
    steps: int = 1
    sites: dict[str, Site] = field(default_factory=dict)
    latents: dict[str, Values] = field(default_factory=dict)
    held: Values = field(default_factory=dict)

    def file_bytes(self, codes: Mapping[str, Code]) -> int:
        """Bytes of the weight files with these codes, all others as they are: by writing them."""
        every = {**self.model.codes, **codes}
        items = [(key, record.encode(code, self.model.dtypes[key])) for key, code in every.items()]
        with tempfile.TemporaryDirectory(prefix="rarefy-") as folder:
            return sum((Path(folder) / name).stat().st_size for name in container.write(folder, items))


class Behind(Protocol):
    """What is done behind the code: see `rarefy.method.Latent`."""

    def declines(self, site: Site) -> str: ...
    def start(self, site: Site) -> Values: ...
    def held(self) -> Values: ...
    def before(self, state: State) -> None: ...
    def project(self, site: Site, latent: Values, state: State) -> torch.Tensor: ...
    def penalty(self, site: Site, latent: Values, state: State) -> torch.Tensor | None: ...
    def codes(self, state: State) -> Mapping[str, Code]: ...


class Network:
    """A network whose parameters are projections of latent values.

    Parameters that the method declines stay as they are; those of which it starts nothing are trained as numbers.
    """

    def __init__(self, behind: Behind, model: Model, device: str, examples: int) -> None:
        self.behind, self.model, self.device = behind, model, device
        self.module = model.built()
        self.state = State(model, examples, held=behind.held())
        self.free: Values = {}
        self.fixed: Values = {}
        self.keep: Values = {}
        self.untouched: dict[str, str] = {}
        self.names: dict[str, list[str]] = {}
        for name, key in model.keys.items():
            self.names.setdefault(key, []).append(name)
        kinds = {model.keys[place.parameter]: place.kind for place in places(self.module, model.skeleton.ties)}
        for key in self.names:
            self._add(Site(key, kinds.get(key, "other"), "", model.codes[key]))

    def _add(self, site: Site) -> None:
        key, value = site.name, decoded(site.code, self.device, None)
        buffer = self.model.is_buffer(key) or not value.is_floating_point()
        why = self.behind.declines(site) or ("" if value.numel() else "it is empty")
        if buffer or why:
            self.fixed[key] = value
            self.untouched |= {} if buffer else {key: why}
            return
        latent = {name: tensor.to(self.device) for name, tensor in self.behind.start(site).items()}
        if (keep := site.keep()) is not None:
            self.keep[key] = torch.from_numpy(keep.reshape(site.shape)).to(self.device)
        if latent:
            self.state.sites[key], self.state.latents[key] = site, latent
        else:
            self.free[key] = value.requires_grad_()

    def leaves(self) -> Values:
        """What is trained, each by a name of its own."""
        return self.free | self._latents(trained=True)

    def beside(self) -> Values:
        """What is only kept."""
        return self._latents(trained=False) | {f"held {name}": value for name, value in self.state.held.items()}

    def _latents(self, *, trained: bool) -> Values:
        every = self.state.latents.items()
        return {f"{key} {n}": t for key, latent in every for n, t in latent.items() if t.requires_grad == trained}

    def weights(self) -> Values:
        """Every parameter as it would be stored now, by file key; zeros of earlier steps are zeros."""
        made = self.free | self.fixed
        for key, latent in self.state.latents.items():
            made[key] = self.behind.project(self.state.sites[key], latent, self.state)
        return made | {key: made[key] * keep for key, keep in self.keep.items()}

    def __call__(self, batch: torch.Tensor) -> Any:
        """What the network gives for a batch of inputs."""
        made = self.weights()
        tensors = {name: made[key] for key, names in self.names.items() for name in names}
        args, kwargs = to_device(model_inputs(self.module, batch), self.device)
        return functional_call(self.module, tensors, args, kwargs, tie_weights=True, strict=False)

    def penalty(self) -> torch.Tensor:
        """Of all sites, nats an example."""
        parts = [self.behind.penalty(s, self.state.latents[key], self.state) for key, s in self.state.sites.items()]
        return torch.stack([torch.zeros((), device=self.device), *(part for part in parts if part is not None)]).sum()

    def codes(self) -> dict[str, Code]:
        """The codes of all that was trained."""
        dtypes = self.model.dtypes
        made: dict[str, Code] = {
            key: Dense.of(value.detach().cpu().numpy(), dtypes[key]) for key, value in self.free.items()
        }
        with torch.no_grad():
            made |= self.behind.codes(self.state)
        return made | {key: made[key].masked(keep.cpu().numpy()) for key, keep in self.keep.items()}


def trained(
    behind: Behind, model: Model, lessons: Lessons, evidence: Evidence, plan: Training, *, seed: int, name: str
) -> Visited:
    """The codes of a network that was trained behind them, with notes: `said`, `damage` and `untouched`.

    name: of this step, for its checkpoints. Raises RarefyError when the loss is not finite.
    """
    network = Network(behind, model, evidence.device, len(evidence.array()))
    state, leaves = network.state, network.leaves()
    done = torch.zeros((), dtype=torch.int64)
    state.steps = plan.steps

    def loss(j: int) -> torch.Tensor:
        state.step = int(done)
        done.add_(1)
        with torch.no_grad():
            behind.before(state)
        return lessons.loss(j, network) + network.penalty()

    if leaves:
        train(
            leaves,
            loss,
            len(lessons),
            plan,
            seed=seed,
            beside={"done": done, **network.beside()},
            checkpoint=evidence.journal.scratch(name) / "checkpoint",
            progress=evidence.progress,
            what="training behind the code",
        )
    state.step = plan.steps
    codes = network.codes()
    decoded_ = {key: code.decode() for key, code in codes.items()}
    damage = {key: _damage(model.codes[key].decode(), value) for key, value in decoded_.items()}
    return Visited(codes, {"said": _said(state, codes, decoded_), "damage": damage, "untouched": network.untouched})


def _damage(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float(f"{relative_error(before, after, None):.6g}")


def _said(state: State, codes: Mapping[str, Code], values: Mapping[str, NDArray[np.float32]]) -> str:
    zero = sum(value.size - np.count_nonzero(value) for value in values.values())
    share = zero / max(1, sum(value.size for value in values.values()))
    return f"{human(state.file_bytes(codes))} of weight files, {share:.1%} of what was trained is zero"


def footprint(model: Model, evidence: Evidence) -> int:
    """Bytes that training takes at the most, with batches of the size that the evidence has."""
    kept = forward(model, evidence.micro_batches()[0], evidence.torch_dtype, evidence.device)
    return BYTES * model.weights + kept
