"""What a measurement says: scores and distortion with their intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import UsageError
from rarefy.measure import statistics
from rarefy.units import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """What was measured on each block, in order; equal ``data`` means the same blocks.

    Attributes:
        nll: (n,) mean negative log likelihood of each block, nats a token.
        correct: (n,) bool, for each example.
        kl: (n,) mean distortion of each block, nats a token or example.
    """

    data: str
    nll: Floats | None = None
    correct: NDArray[np.bool_] | None = None
    kl: Floats | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a network scores, and how far it is from its original.

    Attributes:
        blocks: token blocks, or examples.
        perplexity: exp of the mean negative log likelihood, of language models.
        accuracy: fraction of examples, of classifiers.
        kl: distortion, nats a token or example; only against an original.
        reference: the original's scores on the same data.
        difference: of perplexity or accuracy, this network's less the original's, paired.
        warnings: sentences that belong beside the figures.
        figures: what the intervals were made of, for ``compare``.
    """

    blocks: int
    perplexity: Interval | None = None
    accuracy: Interval | None = None
    kl: Interval | None = None
    reference: Evaluation | None = None
    difference: Interval | None = None
    warnings: tuple[str, ...] = ()
    figures: Figures = field(default=Figures(""), repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """What was measured, without what was not."""
        found: dict[str, Any] = {"blocks": self.blocks}
        for name in ("perplexity", "accuracy", "kl", "difference"):
            interval: Interval | None = getattr(self, name)
            if interval is not None:
                found[name] = interval.as_json()
        if self.reference is not None:
            found["reference"] = self.reference.as_json()
        if self.warnings:
            found["warnings"] = list(self.warnings)
        return found


@dataclass(frozen=True)
class Comparison:
    """Paired differences of two evaluations on the same data, first less second."""

    kl: Interval | None
    perplexity: Interval | None
    accuracy: Interval | None


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """What the first network has more than the second: paired, since both saw the same data.

    Raises:
        UsageError: they did not.
    """
    a, b = first.figures, second.figures
    if a.data != b.data or first.blocks != second.blocks:
        raise UsageError("the two evaluations cannot be paired", "their data differ", "evaluate both on the same data")
    return Comparison(
        kl=None if a.kl is None or b.kl is None else statistics.paired_bootstrap(a.kl, b.kl),
        perplexity=_perplexity_difference(a, b),
        accuracy=_accuracy_difference(a, b),
    )


def summed_up(blocks: int, data: str, found: Mapping[str, NDArray[Any]], warnings: tuple[str, ...]) -> Evaluation:
    """Intervals of what was measured.

    Args:
        blocks: n.
        data: names the data exactly.
        found: (n,) arrays named as in ``Figures``, and the original's after ``"reference "``.
        warnings: see ``Evaluation``.
    """
    kl = found.get("kl")
    own = Figures(data, found.get("nll"), found.get("correct"), kl)
    reference = None
    if kl is not None:
        reference = _scores(blocks, Figures(data, found.get("reference nll"), found.get("reference correct")))
    scores = _scores(blocks, own)
    return Evaluation(
        blocks=blocks,
        perplexity=scores.perplexity,
        accuracy=scores.accuracy,
        kl=None if kl is None else statistics.block_bootstrap(kl),
        reference=reference,
        difference=None if reference is None else _difference(own, reference.figures),
        warnings=warnings,
        figures=own,
    )


def _scores(blocks: int, figures: Figures) -> Evaluation:
    nll, correct = figures.nll, figures.correct
    return Evaluation(
        blocks=blocks,
        perplexity=None if nll is None else statistics.block_bootstrap(nll, lambda m: _exp(m[:, 0])),
        accuracy=None if correct is None else statistics.wilson(int(correct.sum()), len(correct)),
        figures=figures,
    )


def _difference(a: Figures, b: Figures) -> Interval | None:
    return _perplexity_difference(a, b) or _accuracy_difference(a, b)


def _perplexity_difference(a: Figures, b: Figures) -> Interval | None:
    if a.nll is None or b.nll is None:
        return None
    both = np.stack([a.nll, b.nll], axis=1)
    return statistics.block_bootstrap(both, lambda m: _exp(m[:, 0]) - _exp(m[:, 1]))


def _accuracy_difference(a: Figures, b: Figures) -> Interval | None:
    if a.correct is None or b.correct is None:
        return None
    return statistics.paired_accuracy(a.correct, b.correct)


def _exp(nats: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(nats))
