"""What a method is: a frozen set of settings that turns a model into a model.

A method's dataclass fields ARE its settings, its command-line flags and its docs table; each field's metadata holds
one line of help. Most methods are a `PerTensor` and write only `encode`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rarefy.errors import UsageError
from rarefy.evidence import (
    Evidence,
    Outputs,
    Site,
    Statistic,
    Visited,
)
from rarefy.model import Model, Step
from rarefy.settings import split_outside_brackets
from rarefy.units import human

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.edits import QuantizedInput
    from rarefy.training import Training
    from rarefy.training.latent import State, Values
    from rarefy.training.lessons import Lessons


def setting(default: Any, help: str, **checks: Any) -> Any:
    """A field of a method. checks: `low`, `high` (inclusive) or `choices`."""
    return dataclasses.field(default=default, metadata={"help": help, **checks})


@dataclass(frozen=True)
class Method(ABC):
    """A frozen set of settings. Constructors check values and compute nothing."""

    needs: ClassVar[frozenset[Statistic]] = frozenset()

    def __post_init__(self) -> None:
        from rarefy.settings import check

        check(self)

    @classmethod
    def name(cls) -> str:
        """What recipes and the command line call it: its module's path under rarefy.methods, or its own path."""
        return cls.__module__.removeprefix("rarefy.methods.")

    def settings(self) -> dict[str, Any]:
        """Field -> value, for histories and recipes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @abstractmethod
    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        """The model after this method."""


@dataclass(frozen=True)
class PerTensor(Method):
    """A method that codes one matrix at a time.

    Without `include` it takes the weights of linear layers and convolutions, and of embeddings where it knows what
    they cost (`takes_embeddings`); with it, the sites that fit one of the patterns, embeddings too.
    """

    takes_embeddings: ClassVar[bool] = False

    include: tuple[str, ...] = dataclasses.field(
        default=(), kw_only=True, metadata={"help": "only tensors whose name fits one of these patterns"}
    )
    exclude: tuple[str, ...] = dataclasses.field(
        default=(), kw_only=True, metadata={"help": "no tensor whose name fits one of these patterns"}
    )

    @abstractmethod
    def encode(self, site: Site) -> Code:
        """The site's new code. Zeros of an earlier pruning are put back by the caller when this moved them."""

    def edit(self, site: Site) -> QuantizedInput | None:
        """What is to happen to the inputs of a site that it takes, from now on."""
        return None

    @property
    def adds(self) -> bool:
        """Whether its code is the site's own and a correction towards `Site.original`, with no zeros to be put back."""
        return False

    def declines(self, site: Site) -> str:
        """Why this method leaves a site as it is, or "" when it takes it."""
        if site.matches(self.exclude):
            return "excluded"
        if self.include:
            if not site.matches(self.include):
                return "not included"
        elif site.kind == "embedding" and not self.takes_embeddings:
            return "an embedding; name it with include to code it"
        missing = next((site.obstacles[need] for need in self.needs if need in site.obstacles), "")
        return missing or ("it is empty" if 0 in site.shape else "")

    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        from rarefy.joint import apply_jointly

        return apply_jointly([self], model, evidence, seed=seed)


@dataclass(frozen=True)
class Tuner(Method):
    """A method that trains what codes leave free: it moves `free()` only. It needs data, and mostly the original."""

    needs: ClassVar[frozenset[Statistic]] = frozenset({Outputs()})

    @abstractmethod
    def memory(self, model: Model, evidence: Evidence) -> int:
        """Bytes that training will take, said beforehand: unlike the walk it may hold the network whole."""

    @abstractmethod
    def tune(self, model: Model, evidence: Evidence, name: str, *, seed: int) -> Visited:
        """The codes that moved, with notes: `said` for the terminal, `damage` and `untouched` for the history.

        name: of this step, for temporary files and checkpoints.
        """

    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        name = f"tune-{len(model.history)}"
        made = evidence.journal.load(name)
        if made is None:
            made = evidence.journal.save(name, self.tune(model, evidence, name, seed=seed))
        evidence.progress.note(f"{self.name()}: {made.notes['said']}")
        step = Step(self.name(), self.settings(), made.notes["damage"], made.notes["untouched"])
        return model.with_codes(made.codes, step)


@dataclass(frozen=True)
class Trained(Method):
    """A method that learns from examples: what the original says of them, their labels, or both."""

    epochs: float = setting(10.0, "times that every example is seen", low=0, high=1e6)
    steps: int = setting(0, "steps of the optimizer, in place of epochs", low=0)
    batch: int = setting(128, "examples a step: images, or blocks of tokens", low=1)
    rate: float = setting(0.003, "learning rate at its highest", low=0, high=1)
    soft: float = setting(1.0, "weight of the original's outputs; 1 - soft is that of labels", low=0, high=1)
    temperature: float = setting(1.0, "that softens the original's outputs and ours", low=0.01, high=1e3)
    augment: str = setting("none", "how images are drawn in every epoch", choices=("none", "shift", "crop"))

    def lessons(self, model: Model, evidence: Evidence, name: str, *, seed: int) -> Lessons:
        """What it learns from. Raises UsageError when soft is above 0 and the model does not know its original."""
        from rarefy.training.lessons import Lessons

        settings = {key: getattr(self, key) for key in ("batch", "soft", "temperature", "augment")}
        return Lessons(model, evidence, name, seed=seed, **settings)

    def training(self, batches: int, *, mixed: bool) -> Training:
        """How to train over so many batches; a checkpoint every epoch, of short ones every ten steps."""
        from rarefy.training import Training

        steps = self.steps or max(1, round(self.epochs * batches))
        return Training(steps, rate=self.rate, mixed=mixed, every=max(10, batches))


@dataclass(frozen=True)
class Latent(Trained):
    """A method that trains behind the code: latent values move, and what is stored is made of them in every step.

    It is asked about every parameter, vectors such as biases among them, holds the network whole, and needs data.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Outputs()})

    rate: float = setting(0.001, "learning rate at its highest", low=0, high=1)
    include: tuple[str, ...] = dataclasses.field(
        default=(), kw_only=True, metadata={"help": "only tensors whose name fits one of these patterns"}
    )
    exclude: tuple[str, ...] = dataclasses.field(
        default=(), kw_only=True, metadata={"help": "no tensor whose name fits one of these patterns"}
    )

    def declines(self, site: Site) -> str:
        """Why a parameter is neither coded nor trained, or ""."""
        if site.matches(self.exclude):
            return "excluded"
        return "not included" if self.include and not site.matches(self.include) else ""

    @abstractmethod
    def start(self, site: Site) -> Values:
        """A site's latent values by name. Those that require a gradient are trained, others are only kept. None: the
        parameter is trained as it is, and stored dense."""

    @abstractmethod
    def project(self, site: Site, latent: Values, state: State) -> torch.Tensor:
        """The parameter, in its shape, just as `finish` would store it, with a gradient that reaches the latent."""

    def penalty(self, site: Site, latent: Values, state: State) -> torch.Tensor | None:
        """What is added to the loss for this site, nats an example, or nothing. Asked for after `project`."""
        return None

    @abstractmethod
    def finish(self, site: Site, latent: Values, state: State) -> Code:
        """What the site is stored as."""

    def held(self) -> Values:
        """What is remembered between steps, of the network as a whole."""
        return {}

    def before(self, state: State) -> None:
        """Change in place what is only kept, before a step."""

    def codes(self, state: State) -> Mapping[str, Code]:
        """The codes of all sites, when training has ended."""
        return {key: self.finish(site, state.latents[key], state) for key, site in state.sites.items()}

    def training(self, batches: int, *, mixed: bool) -> Training:
        # Latent values move little in a step, so their gradients are averaged for longer.
        return dataclasses.replace(super().training(batches, mixed=mixed), betas=(0.9, 0.999), warmup=0.02)

    def memory(self, model: Model, evidence: Evidence) -> int:
        """Bytes that training will take, said beforehand."""
        from rarefy.training.latent import footprint

        return footprint(model, dataclasses.replace(evidence, batch=self.batch))

    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        from rarefy.training.latent import trained

        name = f"latent-{len(model.history)}"
        made = evidence.journal.load(name)
        if made is None:
            lessons = self.lessons(model, evidence, name, seed=seed)
            plan = self.training(len(lessons), mixed=evidence.dtype == "bfloat16")
            made = evidence.journal.save(name, trained(self, model, lessons, evidence, plan, seed=seed, name=name))
            lessons.close()
        evidence.progress.note(f"{self.name()}: {made.notes['said']}")
        step = Step(self.name(), self.settings(), made.notes["damage"], made.notes["untouched"])
        return model.with_codes(made.codes, step)


@dataclass(frozen=True)
class Budgeted(PerTensor):
    """A PerTensor that can be held to a rate: a survey forecasts what its sites take, and as the walk goes on it is
    settled again for what is left. It asks for `Curvature`."""

    bits: float = setting(3.0, "bits a weight to spend on the tensors it takes, scales counted", low=0.1, high=12)
    size: int = setting(0, "bytes that all weight files may have in the end, in place of bits", low=0)
    step: float = setting(0.0, "c, in place of bits or size: a weight costs c^2/24 nats of divergence", low=0, high=1e3)

    @abstractmethod
    def metric(self, site: Site) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What an error costs: g (out,) of the rows, and U (in, in) with S^-1 = U^T U of the columns."""

    @abstractmethod
    def forecast(self, site: Site, g: NDArray[np.float32], u: NDArray[np.float32]) -> dict[str, Any]:
        """What a site of this metric would take, as JSON values: how many `weights`, and `bits` of all of them at
        some `steps`."""

    @abstractmethod
    def noise(
        self, w: NDArray[np.float32], g: NDArray[np.float32], u: NDArray[np.float32], step: float
    ) -> NDArray[np.float32]:
        """An error (out, in) of the size and shape that coding w by this step leaves, for much less work."""

    @abstractmethod
    def spending(self, bits: float, forecasts: Sequence[Mapping[str, Any]]) -> Budgeted:
        """The method with settings under which these sites take so many bits together."""

    def settled(self, forecasts: Mapping[str, Any], spent: Mapping[str, float], rest: float) -> Budgeted:
        """As it goes on. forecasts: of all its sites. spent: bits of those coded. rest: bits of all other tensors.

        Raises UsageError when the rest alone is larger than the size.
        """
        left = [forecast for name, forecast in forecasts.items() if name not in spent]
        if not left:
            return self
        if not self.size:
            return self.spending(self.bits * sum(f["weights"] for f in forecasts.values()) - sum(spent.values()), left)
        budget = 8 * self.size - rest
        if budget <= 0:
            raise UsageError(
                f"{human(self.size)} are too few",
                f"what {self.name()} leaves as it is takes {human(rest / 8)}",
                "allow more, or let it take more tensors",
            )
        return self.spending(budget - sum(spent.values()), left)

    def excess(self, forecasts: Mapping[str, Any], spent: Mapping[str, float], rest: float) -> float:
        """Bits beyond the size when all sites are coded."""
        return sum(spent.values()) + rest - 8 * self.size if self.size and spent.keys() >= forecasts.keys() else 0.0


def parse_pairs(text: str) -> dict[str, str]:
    """`a=1,b=x` -> {"a": "1", "b": "x"}; commas inside brackets do not split. Raises UsageError."""
    pairs: dict[str, str] = {}
    for part in split_outside_brackets(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in pairs:
            what = f"{key} is given twice" if equals else f"{part!r} is not a setting"
            raise UsageError(what, remedy="write name=value,name=value")
        pairs[key] = value
    return pairs
