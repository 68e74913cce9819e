"""What a run will make, from the survey before it: bytes, divergence, and the step that keeps a budget."""

from __future__ import annotations

import dataclasses
import math
from collections import ChainMap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.base import matrix
from rarefy.errors import UsageError
from rarefy.evidence import Curvature, Evidence, Site, Visited
from rarefy.evidence.fingerprint import check_disjoint, check_disjoint_examples
from rarefy.families import Segments
from rarefy.joint import Joint
from rarefy.maths.curves import Curve
from rarefy.method import Budgeted, PerTensor
from rarefy.model import LazyCodes, shape_of
from rarefy.plan import noise
from rarefy.plan.data import Calibration, calibration
from rarefy.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.model import Model

SHARE: Final = 4
"""That part of the calibration data the survey does not see, so that noise can be measured on it; of many data less."""

MOST_HELD: Final = 8
"""At most so many blocks of tokens, or 64 times as many examples."""

CLAIMED: Final = (0.02, 0.5)
"""Nats between which a predicted divergence is claimed: below, half precision and chance; above, no second order."""

CLOSE: Final = 0.02
"""How near the predicted divergence must come to the one allowed, as a share of it."""

LOOKS: Final = 8
"""At most so many passes to find the step."""


@dataclass(frozen=True)
class Foreseen:
    """Of the weight files: bytes. step: c, the one number from which size and divergence follow.

    nats: divergence from the network as it is, nats a token or example; None where it is not predicted, with the
        reason in `rests`, which otherwise says what the prediction rests on.
    factor: that over c^2 N / 24, what weights would cost each by itself, to second order.
    """

    bytes: int
    step: float
    nats: float | None
    factor: float | None
    rests: str

    @property
    def claimed(self) -> bool:
        """Whether the divergence lies where such predictions hold."""
        return self.nats is not None and CLAIMED[0] <= self.nats <= CLAIMED[1]

    def to_json(self) -> dict[str, Any]:
        """For manifests and the command line."""
        return {**dataclasses.asdict(self), "claimed": self.claimed}


def unseen_data(
    model: Model,
    recipe: Recipe,
    data: Calibration,
    files: Sequence[str | Path],
    eval_files: Sequence[str | Path],
    length: int,
) -> Calibration | None:
    """What noise is measured on where it is no part of `data`, which is of `files`: `eval_files`, or the other part of
    the default text. None where there are calibration files alone, and where the recipe asks for no survey.

    Raises UsageError when both are of the same text.
    """
    if (files and not eval_files) or Curvature() not in recipe.statistics:
        return None
    found = calibration(model, eval_files, blocks=MOST_HELD, length=length, other_part=True)
    if found.text:
        check_disjoint(data.fingerprint, found.text)
    check_disjoint_examples(data.fingerprint, found.inputs)
    return dataclasses.replace(found, inputs=found.inputs[: 64 * MOST_HELD])


def foresee(
    model: Model,
    recipe: Recipe,
    evidence: Evidence,
    *,
    seed: int,
    max_kl: float | None = None,
    unseen: NDArray[Any] | None = None,
) -> Foreseen | None:
    """Survey `model` as the recipe's first walk will, and disturb it; None when no survey begins the recipe.

    The survey stays in the journal, where the walk finds it. max_kl: nats that the result may be away, to be met by
    the step; left out, the recipe's own budget says the step. unseen: inputs that the divergence is told of; left out,
    some of the evidence, which the survey does not see then.

    Raises UsageError when there are no data, or a divergence that cannot be predicted is to be met.
    """
    methods = [method for method in recipe.stages()[0] if isinstance(method, PerTensor)]
    budgeted = next((method for method in methods if isinstance(method, Budgeted)), None)
    if budgeted is None:
        return None
    seen, held = split(evidence) if unseen is None else (evidence, dataclasses.replace(evidence, inputs=unseen))
    why = _obstacle(model, recipe, held)
    if why and max_kl is not None:
        raise UsageError("this divergence cannot be predicted", why, "give a size, or bits a weight")
    found = _Foresight(model, methods, budgeted, evidence if why else seen, None if why else held, seed)
    return found.sized(why) if max_kl is None else found.diverging(max_kl)


def split(evidence: Evidence) -> tuple[Evidence, Evidence | None]:
    """What the survey sees, and what it does not; none of too few.

    The last blocks of a text, which are not of the articles that the first are of; other examples all over.
    """
    inputs = evidence.array()
    is_text = np.issubdtype(inputs.dtype, np.integer)
    count = min(len(inputs) // SHARE, MOST_HELD if is_text else 64 * MOST_HELD)
    if not count:
        return evidence, None
    held = np.arange(len(inputs)) >= len(inputs) - count
    if not is_text:
        held[:] = False
        held[len(inputs) * np.arange(1, count + 1) // count - 1] = True
    return dataclasses.replace(evidence, inputs=inputs[~held]), dataclasses.replace(evidence, inputs=inputs[held])


def _obstacle(model: Model, recipe: Recipe, held: Evidence | None) -> str:
    """Why the divergence cannot be told, or ""."""
    if len(recipe.flat()) > 1:
        return "the recipe has other methods, whose errors are not foreseen"
    if noise.law_of(Segments(model)) not in noise.DISTANCES:
        return "the output of a regression has no unit"
    if held is None:
        return f"it takes {SHARE} blocks of calibration data, one of them held back"
    return ""


class _Foresight:
    """A survey, and what follows from it at a step."""

    def __init__(
        self,
        model: Model,
        methods: Sequence[PerTensor],
        method: Budgeted,
        seen: Evidence,
        held: Evidence | None,
        seed: int,
    ) -> None:
        self.model, self.method, self.held = model, method, held
        joint = Joint(methods, model)
        looked = joint.survey(seen, "walk0", seed=seed, also=None if held is None else _kept_metric)
        i = list(methods).index(method)
        self.forecasts: dict[str, Any] = joint.forecasts[i]
        self.rest = joint.rest[i]
        self.curves = {key: Curve(f["steps"], f["bits"]) for key, f in self.forecasts.items()}
        self.metric = ChainMap[str, Any](*(visited.codes for visited in looked))  # type: ignore[arg-type]

    def _disturbed(self, key: str, step: float) -> Code:
        """A matrix with noise; none where an earlier step left zeros."""
        code = self.model.codes[key]
        g, u, support = self.metric[_rows(key)].decode(), self.metric[_columns(key)].decode(), code.support()
        w = code.decode().reshape(matrix(code.shape))
        is_turned = g.shape != (len(w), 1)
        values = np.ascontiguousarray(w.T) if is_turned else w
        made = self.method.noise(values, g.reshape(-1), u, step)
        made = np.ascontiguousarray(made.T) if is_turned else made
        if support is not None:
            made *= support.reshape(w.shape)
        made += w  # in place: of an embedding each copy counts
        return Dense.of(made.reshape(code.shape))

    def sized(self, why: str) -> Foreseen:
        """Where the recipe's own budget leads. why: the divergence is not predicted, or ""."""
        return self._at(self.method.settled(self.forecasts, {}, self.rest).step, why)

    def diverging(self, limit: float) -> Foreseen:
        """At the step where the predicted divergence is `limit`, by secants in logarithms; the widest that is of use
        where all divergences are less."""
        if not self.forecasts:
            raise UsageError(f"{self.method.name()} takes no tensor of this network")
        weights = sum(f["weights"] for f in self.forecasts.values())
        widest = 2 ** max(curve.widest for curve in self.curves.values())
        step, slope, known = np.sqrt(12 * limit / weights), 2.0, (0.0, 0.0)
        for look in range(LOOKS):
            step = float(f"{min(float(step), widest):.6g}")
            found = self._nats(step)
            if abs(found / limit - 1) < CLOSE or (step >= widest and found < limit):
                break
            at = (np.log(step), np.log(found / limit))
            if look and at[0] != known[0]:
                slope = float(np.clip((at[1] - known[1]) / (at[0] - known[0]), 0.5, 4.0))
            known, step = at, step * float(np.exp(-at[1] / slope))
        return self._at(step, "")

    def _at(self, step: float, why: str) -> Foreseen:
        taken = math.ceil((self.rest + sum(curve(step) for curve in self.curves.values())) / 8)
        if 0 < taken - self.method.size < 1e-4 * self.method.size:
            taken = self.method.size  # which the step was found for, to so many digits
        if why:
            return Foreseen(taken, step, None, None, why)
        assert self.held is not None
        found, shape = self._nats(step), self.held.array().shape
        second_order = step**2 / 24 * sum(f["weights"] for f in self.forecasts.values())
        rests = f"noise in the weights, on data that the survey did not see ({' x '.join(map(str, shape))})"
        return Foreseen(taken, step, found, float(f"{found / second_order:.4g}"), rests)

    def _nats(self, step: float) -> float:
        """The divergence that noise of this step makes, to six digits."""
        assert self.held is not None
        name = f"noise-{step!r}"
        known = self.held.journal.load(name)
        if known is None:
            shapes = {key: shape_of(self.model.codes, key) for key in self.forecasts}
            noisy = LazyCodes(lambda key: self._disturbed(key, step), shapes)
            found = noise.nats(self.model, self.held, noisy, name)
            known = self.held.journal.save(name, Visited({}, {"nats": float(f"{found:.6g}")}))
        return float(known.notes["nats"])


def _kept_metric(site: Site, g: NDArray[np.float32], u: NDArray[np.float32]) -> dict[str, Code]:
    """Of a site, what noise is made from when the step is known."""
    return {_rows(site.name): site.oriented(Dense.of(g[:, None])), _columns(site.name): Dense.of(u, "BF16")}


def _rows(key: str) -> str:
    return f"{key} rows"


def _columns(key: str) -> str:
    return f"{key} columns"
