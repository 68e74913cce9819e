"""What a method is: a frozen set of settings that turns a model into a model.

A method's dataclass fields ARE its settings, its command-line flags and its docs table; each field's metadata holds
one line of help. Most methods are a `PerTensor` and write only `encode`.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.errors import RarefyError, UsageError
from rarefy.evidence import (
    Curvature,
    Evidence,
    SecondMoment,
    Site,
    Statistic,
    Surveyed,
    Visited,
    kept,
    relative_error,
    survey,
    walk,
)
from rarefy.files.container import overhead
from rarefy.model import Model, Step
from rarefy.settings import split_outside_brackets
from rarefy.units import human

if TYPE_CHECKING:
    from rarefy.codes import Code


MARGIN = 5e-4
"""Of a size that is to be kept, what is not spent: the last segment is coded without another look."""


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
        return apply_jointly([self], model, evidence, seed=seed)


@dataclass(frozen=True)
class Budgeted(PerTensor):
    """A PerTensor that can be held to a rate: a survey forecasts what its sites take, and as the walk goes on it is
    settled again for what is left. It asks for `Curvature`."""

    bits: float = setting(3.0, "bits a weight to spend on the tensors it takes, scales counted", low=0.1, high=12)
    size: int = setting(0, "bytes that all weight files may have in the end, in place of bits", low=0)

    @abstractmethod
    def forecast(self, site: Site) -> dict[str, Any]:
        """What a site would take, as JSON values, its number of `weights` among them."""

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
        budget = 8 * self.size * (1 - MARGIN) - rest
        if budget <= 0:
            raise UsageError(
                f"{human(self.size)} are too few",
                f"what {self.name()} leaves as it is takes {human(rest / 8)}",
                "allow more, or let it take more tensors",
            )
        return self.spending(budget - sum(spent.values()), left)


def apply_jointly(
    methods: Sequence[PerTensor], model: Model, evidence: Evidence, name: str = "walk", *, seed: int = 0
) -> Model:
    """Adjacent PerTensor methods in one walk: inside a segment, each site goes through all of them in order.

    Where one asks for curvature, a survey of the network as it is goes before.
    """
    needs = frozenset[Statistic]().union(*(method.needs for method in methods))
    known: Surveyed | None = None
    forecasts: list[dict[str, Any]] = [{} for _ in methods]
    rest = [0.0 for _ in methods]
    if Curvature() in needs:
        needs = needs - {Curvature()} | {SecondMoment()}
        looked = survey(model, evidence, functools.partial(_look, methods), f"{name}-survey", seed=seed)
        known = Surveyed(looked, "curvature")
        forecasts = [merged(visited.notes["forecasts"][i] for visited in looked) for i in range(len(methods))]
        rest = [_rest(model, forecast) for forecast in forecasts]

    def visit(sites: list[Site], before: Sequence[Visited]) -> Visited:
        codes: dict[str, Code] = {}
        damage: list[dict[str, float]] = [{} for _ in methods]
        untouched: list[dict[str, str]] = [{} for _ in methods]
        spent: list[dict[str, float]] = [{} for _ in methods]
        settled = [
            method.settled(forecasts[i], merged(visited.notes["spent"][i] for visited in before), rest[i])
            if isinstance(method, Budgeted)
            else method
            for i, method in enumerate(methods)
        ]
        for site in sites if known is None else map(known.joined, sites):
            for i, method in enumerate(settled):
                reason = method.declines(site)
                if reason:
                    untouched[i][site.name] = reason
                    continue
                new = encode(method, site)
                damage[i][site.name] = damage_of(site, new)
                if forecasts[i]:
                    spent[i][site.name] = new.bits()
                codes[site.name] = new
                site = dataclasses.replace(site, code=new)
        return Visited(codes, {"damage": damage, "untouched": untouched, "spent": spent})

    made = walk(model, evidence, needs, visit, name)
    codes = ChainMap[str, Any](*(visited.codes for visited in made))  # type: ignore[arg-type]
    for i, method in enumerate(methods):
        damage = merged(visited.notes["damage"][i] for visited in made)
        untouched = merged(visited.notes["untouched"][i] for visited in made)
        model = model.with_codes(codes if i == 0 else {}, Step(method.name(), method.settings(), damage, untouched))
    return model


def _look(methods: Sequence[PerTensor], sites: list[Site], before: Sequence[Visited]) -> Visited:
    """What a survey leaves of a segment."""
    codes, notes = kept(sites)
    forecasts = [
        {site.name: method.forecast(site) for site in sites if not method.declines(site)}
        if isinstance(method, Budgeted)
        else {}
        for method in methods
    ]
    return Visited(codes, {"curvature": notes, "forecasts": forecasts})


def _rest(model: Model, forecasts: Mapping[str, Any]) -> float:
    """Bits of a network's weight files beside the sites of these forecasts."""
    others = sum(model.codes[key].bits() for key in model.codes if key not in forecasts)
    return others + 8 * overhead(model.codes) if forecasts else 0.0


def encode(method: PerTensor, site: Site) -> Code:
    """The method's code for a site, with the zeros of earlier steps still zero.

    Raises RarefyError when its weights or what calibration saw of it are not finite.
    """
    refuse_non_finite(site)
    code = method.encode(site)
    keep = site.keep()
    return code if keep is None else code.masked(keep.reshape(code.shape))


def refuse_non_finite(site: Site) -> None:
    """Raise RarefyError when a site's weights or second moments hold infinities or NaNs: no code of them means much."""
    from rarefy.evidence import Moment

    if not np.isfinite(site.weight()).all():
        raise RarefyError(
            f"{site.name} has infinite or NaN weights",
            remedy=f"repair the weights, or keep it as it is with --exclude '{site.name}'",
        )
    if not all(moment.finite() for moment in site.statistics.values() if isinstance(moment, Moment)):
        raise RarefyError(
            f"what flows into {site.name} is not finite",
            "an activation overflowed, or a weight before it is infinite or NaN",
            f"check the weights and the data, or keep it as it is with --exclude '{site.name}'",
        )


def damage_of(site: Site, new: Code) -> float:
    """Relative squared error of the site's output by the change, to six digits (the last ones depend on threads)."""
    from rarefy.evidence import Moment

    moment = next((m for m in site.statistics.values() if isinstance(m, Moment)), None)
    before = site.weight()
    return float(f"{relative_error(before, new.decode().reshape(before.shape), moment):.6g}")


def merged(parts: Any) -> dict[str, Any]:
    """One dict of several."""
    return {key: value for part in parts for key, value in part.items()}


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


Settings = Mapping[str, Any]
