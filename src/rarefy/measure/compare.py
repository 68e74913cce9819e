"""Networks against each other on the same data: what differs, how sure that is, and how many answers change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from rarefy.errors import UsageError
from rarefy.measure.divergence import Law
from rarefy.measure.evaluate import ORIGINAL, Progress, measure
from rarefy.measure.evaluation import (
    LOWER_IS_BETTER,
    Difference,
    Evaluation,
    Figures,
    differences,
    scores,
)
from rarefy.measure.proportions import Outcomes, wilson
from rarefy.measure.statistics import LEVEL, block_bootstrap
from rarefy.measure.tasks import Data, Network, task_of
from rarefy.units import Interval


@dataclass(frozen=True)
class NoWorse:
    """Whether the first is no worse than the second by more than ``margin``, in the measure's unit.

    Attributes:
        confidence: one-sided, of the paired bootstrap; for accuracies of Newcombe's interval.
    """

    measure: str
    margin: float
    confidence: float

    @property
    def holds(self) -> bool:
        """With a confidence of 95 %."""
        return self.confidence >= LEVEL

    def as_json(self) -> dict[str, Any]:
        """Its fields and the verdict."""
        return {"measure": self.measure, "margin": self.margin, "confidence": self.confidence, "holds": self.holds}


@dataclass(frozen=True)
class Pair:
    """Two networks on the same data.

    Attributes:
        first, second: their names.
        differences: by measure, the first's less the second's, paired, with its 95 % interval.
        changed: the share of answers that differ: likeliest tokens or classes.
        outcomes: how often both, one, or neither was right; of classifiers.
        no_worse: one for each margin asked for.
    """

    first: str
    second: str
    differences: Mapping[str, Interval]
    changed: Interval | None
    outcomes: Outcomes | None
    no_worse: tuple[NoWorse, ...]

    def better(self, measure: str) -> str | None:
        """The name of the one that the interval of the difference shows to be better, None where it shows none."""
        found = self.differences[measure]
        if found.low <= 0.0 <= found.high or math.isnan(found.value):
            return None
        return self.first if (found.high < 0.0) == (measure in LOWER_IS_BETTER) else self.second

    def as_json(self) -> dict[str, Any]:
        """What was measured, without what was not."""
        found: dict[str, Any] = {
            "first": self.first,
            "second": self.second,
            "difference": {name: interval.as_json() for name, interval in self.differences.items()},
            "better": {name: self.better(name) for name in self.differences},
        }
        if self.changed is not None:
            found["changed"] = self.changed.as_json()
        if self.outcomes is not None:
            only = {"only_first": self.outcomes.first, "only_second": self.outcomes.second}
            found["mcnemar"] = {**only, "p": self.outcomes.p_value()}
        if self.no_worse:
            found["no_worse"] = [each.as_json() for each in self.no_worse]
        return found


@dataclass(frozen=True)
class Comparison:
    """Networks on the same data.

    Attributes:
        blocks: token blocks, or examples.
        networks: by name, the scores of each and, where there is an original, its distortion.
        original: the original's scores.
        pairs: every two networks in the order given, then each against the original.
        warnings: sentences that belong beside the figures.
    """

    blocks: int
    networks: Mapping[str, Evaluation]
    original: Evaluation | None
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def compare(
    networks: Mapping[str, Network],
    data: Data,
    *,
    original: Network | None = None,
    margins: Mapping[str, float] | None = None,
    device: torch.device | str | None = None,
    batch: int | None = None,
    law: Law | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run the same data through all networks and compare them, paired by block or example.

    Args:
        networks: by name, at least two, or one with an original.
        data: as for ``evaluate``.
        original: what they were made from: adds each one's distortion, and its difference from the original.
        margins: by measure (``kl``, ``nll``, ``perplexity``, ``accuracy``, ``spearman``), how much worse is still
            good enough: nats for ``kl`` and ``nll``, fractions for ``accuracy`` and ``spearman``.
        device, batch, law, progress: as for ``evaluate``.

    Raises:
        UsageError: too few networks, data that do not fit, or a margin below zero or of what is not measured.
        RarefyError: an output is not a number.

    Sources: the paired bootstrap, Efron (1979), over blocks; accuracies: Newcombe (1998), McNemar (1947);
    non-inferiority by a one-sided bound, Piaggio et al. (2012), JAMA 308.
    """
    if len(networks) + (original is not None) < 2:
        raise UsageError("one network cannot be compared with itself", remedy="give a second, or the original")
    limits = dict(margins or {})
    _refuse_margins(limits, (*(("kl",) if original is not None else ()), *task_of(data, law).measures))
    found = measure(networks, data, original=original, device=device, batch=batch, law=law, progress=progress)
    couples = list(combinations(found.networks.items(), 2))
    if found.original is not None:
        couples += [(each, (ORIGINAL, found.original)) for each in found.networks.items()]
    return Comparison(
        found.blocks,
        {name: scores(found.blocks, figures) for name, figures in found.networks.items()},
        None if found.original is None else scores(found.blocks, found.original),
        tuple(_pair(*first, *second, limits) for first, second in couples),
        found.warnings,
    )


def _pair(first: str, a: Figures, second: str, b: Figures, limits: Mapping[str, float]) -> Pair:
    found = differences(a, b)
    outcomes = found.get("accuracy")
    return Pair(
        first,
        second,
        {name: difference.interval() for name, difference in found.items()},
        _changed(a, b),
        outcomes if isinstance(outcomes, Outcomes) else None,
        tuple(NoWorse(name, margin, _sure(name, found[name], margin)) for name, margin in limits.items()),
    )


def _refuse_margins(limits: Mapping[str, float], measured: tuple[str, ...]) -> None:
    for name, margin in limits.items():
        if name not in measured:
            why = f"measured are {', '.join(measured) or 'no scores'}"
            unmeasured = name == "kl" or not measured
            raise UsageError(f"there is no {name} to hold to a margin", why, "give the original" if unmeasured else "")
        if not 0.0 <= margin < math.inf:
            raise UsageError(f"a margin of {margin:g} holds nobody to anything", remedy="give one of zero or more")


def _sure(name: str, difference: Difference, margin: float) -> float:
    return difference.at_most(margin) if name in LOWER_IS_BETTER else difference.at_least(-margin)


def _changed(a: Figures, b: Figures) -> Interval | None:
    if a.answers is None or b.answers is None:
        return None
    unlike = a.answers != b.answers
    if unlike.ndim == 1:
        return wilson(int(unlike.sum()), len(unlike))
    return block_bootstrap(unlike.mean(axis=1))
