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
)
from rarefy.model import Model
from rarefy.settings import split_outside_brackets
from rarefy.units import human

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.families import Law


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
    """A method that trains what codes leave free, towards what the original network gives: it moves `free()` only.

    It needs the original (`Model.original`) and calibration data.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({Outputs()})

    @abstractmethod
    def memory(self, model: Model, evidence: Evidence) -> int:
        """Bytes that training will take, said beforehand: unlike the walk it may hold the network whole."""

    @abstractmethod
    def loss(self, student: Any, teacher: Any, law: Law) -> torch.Tensor:
        """What is minimized, of the outputs of the compressed network and of the original for a micro-batch.

        law: under which distortion is measured; returns nats a token or example.
        """


@dataclass(frozen=True)
class Budgeted(PerTensor):
    """A PerTensor that can be held to a rate: a survey forecasts what its sites take, and as the walk goes on it is
    settled again for what is left. It asks for `Curvature`."""

    bits: float = setting(3.0, "bits a weight to spend on the tensors it takes, scales counted", low=0.1, high=12)
    size: int = setting(0, "bytes that all weight files may have in the end, in place of bits", low=0)
    step: float = setting(0.0, "c, in place of bits or size: a weight costs c^2/24 nats of divergence", low=0, high=1e3)

    @abstractmethod
    def forecast(self, site: Site) -> dict[str, Any]:
        """What a site would take, as JSON values: its number of `weights`, `bits` of all of them at some `steps`, and
        the `errors` left there, root mean square over that of a uniform error within a step."""

    @abstractmethod
    def noise(self, site: Site, random: np.random.Generator) -> NDArray[np.float32]:
        """An error (out, in) such as a step of 1 would leave if errors were uniform within a step."""

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
