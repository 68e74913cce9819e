"""Methods that code one matrix at a time, together in one walk."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy import heap
from rarefy.codes.sparse import supported
from rarefy.edits import read as read_edits
from rarefy.errors import RarefyError, UsageError
from rarefy.evidence import (
    Curvature,
    Evidence,
    Moment,
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
from rarefy.files import compact, record
from rarefy.files.container import is_single, overhead
from rarefy.method import Budgeted, PerTensor
from rarefy.model import Model, Step
from rarefy.units import human

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rarefy.codes import Code

    Keeper = Callable[[Site, NDArray[np.float32], NDArray[np.float32]], dict[str, Code]]


def apply_jointly(
    methods: Sequence[PerTensor], model: Model, evidence: Evidence, name: str = "walk", *, seed: int = 0
) -> Model:
    """Adjacent PerTensor methods in one walk: inside a segment, each site goes through all of them in order.

    Where one asks for curvature, a survey of the network as it is goes before.
    """
    for i, method in enumerate(methods):
        adding = next((later.name() for later in methods[i + 1 :] if later.adds), "")
        if isinstance(method, Budgeted) and method.size and adding:
            raise UsageError(
                f"{method.name()} cannot keep a size when {adding} adds to it", remedy="leave out the one or the other"
            )
    joint = Joint(methods, model)
    needs = frozenset[Statistic]().union(*(method.needs for method in methods))
    if Curvature() in needs:
        needs = needs - {Curvature()} | {SecondMoment()}
        joint.survey(evidence, name, seed=seed)
    made = walk(model, evidence, needs, joint.visit, name)
    codes = ChainMap[str, Any](*(visited.codes for visited in made))  # type: ignore[arg-type]
    for i, method in enumerate(methods):
        damage = merged(visited.notes["damage"][i] for visited in made)
        untouched = merged(visited.notes["untouched"][i] for visited in made)
        edits = read_edits(merged(visited.notes["edits"][i] for visited in made))
        step = Step(method.name(), method.settings(), damage, untouched)
        model = model.with_codes(codes if i == 0 else {}, step, edits)
    return model


UNSPENT, TRIES = 0.002, 4
"""Of a size, what may be left over; and how often the last segment is coded to have less left."""


class Joint:
    """What is done in a segment, by a survey and by the walk.

    forecasts: of each method that can be held to a rate, those of its sites. rest: bits of all other tensors.
    """

    def __init__(self, methods: Sequence[PerTensor], model: Model) -> None:
        self.methods, self.model = methods, model
        self.known: Surveyed | None = None
        self.forecasts: list[dict[str, Any]] = [{} for _ in methods]
        self.rest = [0.0 for _ in methods]
        sizes = [method.size for method in methods if isinstance(method, Budgeted) and method.size]
        self._single = bool(sizes) and is_single(model.codes, min(sizes))

    def survey(self, evidence: Evidence, name: str, *, seed: int, also: Keeper | None = None) -> list[Visited]:
        """Forecast what all sites take. Where the journal has the survey called `name`, that one.

        also: what else is kept of a site, for whoever asked.
        """

        def look(sites: list[Site], before: Sequence[Visited]) -> Visited:
            codes, notes = kept(sites)
            forecasts = [self._forecasts(i, sites, codes, also) for i in range(len(self.methods))]
            return Visited(codes, {"curvature": notes, "forecasts": forecasts})

        looked = survey(self.model, evidence, look, f"{name}-survey", seed=seed)
        self.learn(looked)
        return looked

    def _forecasts(self, i: int, sites: list[Site], codes: dict[str, Code], also: Keeper | None) -> dict[str, Any]:
        """What method i will take of sites that others code before it; nothing where it has no budget. codes: where
        what is kept is put."""
        method, found = self.methods[i], dict[str, Any]()
        if not isinstance(method, Budgeted):
            return found
        for site in sites:
            if not method.declines(site):
                refuse_non_finite(site)
                metric = method.metric(site)
                codes |= {} if also is None else also(site, *metric)
                for before in self.methods[:i]:
                    # What an earlier budget will make of it is not known yet.
                    if not (isinstance(before, Budgeted) or before.adds or before.declines(site)):
                        site = dataclasses.replace(site, code=encode(before, site))
                found[site.name] = method.forecast(site, *metric)
                heap.release()
        return found

    def learn(self, looked: Sequence[Visited]) -> None:
        """Take over what the survey left."""
        self.known = Surveyed(looked, "curvature")
        for i, method in enumerate(self.methods):
            if isinstance(method, Budgeted):
                self.forecasts[i] = merged(visited.notes["forecasts"][i] for visited in looked)
                others = [key for key in self.model.codes if key not in self.forecasts[i]]
                dtypes = self.model.dtypes
                stored = sum(self._bits(record.encode(self.model.codes[key], dtypes[key])) for key in others)
                self.rest[i] = stored + 8 * overhead(self.model.codes, method.size)

    def visit(self, sites: list[Site], before: Sequence[Visited]) -> Visited:
        """Code a segment's sites. Where no segment is left to make up for it and that took too much, or left more than
        UNSPENT of a size, again: until it fits, up to TRIES times. The largest that fits is taken.

        Raises UsageError when no step is wide enough for the size that is to be kept.
        """
        sites = sites if self.known is None else [self.known.joined(site) for site in sites]
        spent = [merged(visited.notes["spent"][i] for visited in before) for i in range(len(self.methods))]
        saved = [0.0 for _ in self.methods]
        last: list[PerTensor] = []
        over: list[float] = []
        fits: Visited | None = None
        for tried in itertools.count(1):
            settled = [self._settled(i, spent[i], saved[i]) for i in range(len(self.methods))]
            if settled == last or (fits is not None and tried > TRIES):
                break
            made = self._code(settled, sites)
            over = [self._excess(i, spent[i] | made.notes["spent"][i]) for i in range(len(self.methods))]
            if max(over) <= 0 and (fits is None or _spent(made) > _spent(fits)):
                fits = made
            if max(over) <= 0 and all(self._spends(i, over[i]) for i in range(len(self.methods))):
                break
            saved, last = [one + more for one, more in zip(saved, over, strict=True)], settled
        if fits is None:
            raise UsageError(
                "so many bytes are too few", f"the widest steps take {human(max(over) / 8)} more", "allow more"
            )
        return fits

    def _spends(self, i: int, over: float) -> bool:
        """Whether method i leaves little of its size. over: bits beyond it, below zero."""
        method = self.methods[i]
        return not isinstance(method, Budgeted) or over >= -8 * UNSPENT * method.size

    def _settled(self, i: int, spent: Mapping[str, float], saved: float) -> PerTensor:
        """Method i as it goes on, with so many bits fewer to spend."""
        method = self.methods[i]
        if not isinstance(method, Budgeted):
            return method
        return method.settled(self.forecasts[i], {**spent, "": saved}, self.rest[i])

    def _excess(self, i: int, spent: Mapping[str, float]) -> float:
        """Bits that method i has spent beyond its size."""
        method = self.methods[i]
        return method.excess(self.forecasts[i], spent, self.rest[i]) if isinstance(method, Budgeted) else 0.0

    def _code(self, methods: Sequence[PerTensor], sites: list[Site]) -> Visited:
        codes: dict[str, Code] = {}
        damage: list[dict[str, float]] = [{} for _ in methods]
        untouched: list[dict[str, str]] = [{} for _ in methods]
        spent: list[dict[str, float]] = [{} for _ in methods]
        edits: list[dict[str, Any]] = [{} for _ in methods]
        records: dict[str, bytes] = {}
        for site in sites:
            if any(method.adds for method in methods):
                site = dataclasses.replace(site, original=site.oriented(self.model.original().codes[site.name]))
            for i, method in enumerate(methods):
                reason = method.declines(site)
                if reason:
                    untouched[i][site.name] = reason
                    continue
                new = encode(method, site)
                before = site.original if method.adds and site.original else site.code
                damage[i][site.name] = damage_of(dataclasses.replace(site, code=before), new)
                codes[site.name] = site.oriented(new)
                records.pop(site.name, None)
                if isinstance(method, Budgeted):
                    records[site.name] = record.encode(codes[site.name], self.model.dtypes[site.name])
                    spent[i][site.name] = self._bits(records[site.name])
                edit = method.edit(site)
                if edit is not None:
                    edits[i][site.name] = edit.to_json()
                site = dataclasses.replace(site, code=new)
            heap.release()
        return Visited(codes, {"damage": damage, "untouched": untouched, "spent": spent, "edits": edits}, records)

    def _bits(self, made: bytes) -> float:
        """What a record takes in a file of its own, exactly; beside others in a small one a little less."""
        stored = compact.write([made]) if self._single else None
        return 8.0 * len(stored or made)


def _spent(made: Visited) -> float:
    """Bits that all methods spent on a segment."""
    return math.fsum(bits for spent in made.notes["spent"] for bits in spent.values())


def encode(method: PerTensor, site: Site) -> Code:
    """The method's code for a site, with the zeros of earlier steps still zero unless it adds to them.

    Raises RarefyError when its weights or what calibration saw of it are not finite.
    """
    refuse_non_finite(site)
    code = method.encode(site)
    keep = None if method.adds else site.keep()
    return code if keep is None else supported(code, keep.reshape(code.shape))


def refuse_non_finite(site: Site) -> None:
    """Raise RarefyError when a site's weights or second moments hold infinities or NaNs: no code of them means much."""
    if not np.isfinite(site.weight()).all():
        raise RarefyError(
            f"{site.name} has infinite or NaN weights",
            remedy=f"repair the weights, or keep it as it is with --exclude '{site.name}'",
        )
    uses = site.statistics.get(Curvature(), ())
    moments = [moment for moment in site.statistics.values() if isinstance(moment, Moment)]
    if not all(seen.finite() for seen in (*moments, *uses)):
        raise RarefyError(
            f"what flows into {site.name} is not finite",
            "an activation overflowed, or a gradient, or a weight before it is infinite or NaN",
            f"check the weights and the data, or keep it as it is with --exclude '{site.name}'",
        )


def damage_of(site: Site, new: Code) -> float:
    """Relative squared error of the site's output by the change, to six digits (the last ones depend on threads)."""
    moment = next((m for m in site.statistics.values() if isinstance(m, Moment)), None)
    before = site.weight()
    return float(f"{relative_error(before, new.decode().reshape(before.shape), moment):.6g}")


def merged(parts: Any) -> dict[str, Any]:
    """One dict of several."""
    return {key: value for part in parts for key, value in part.items()}
