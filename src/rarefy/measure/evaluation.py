"""What a measurement says of one network: scores and distortion with their intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.measure.proportions import Outcomes, wilson
from rarefy.measure.statistics import Bootstrap, block_bootstrap, bootstrap, paired, rank_correlation
from rarefy.units import Interval

Floats = NDArray[np.float64]
Difference = Bootstrap | Outcomes
"""A paired difference: its ``value``, ``interval()``, and one-sided confidence ``at_most(m)`` and ``at_least(m)``."""

LOWER_IS_BETTER = ("kl", "nll", "perplexity")
HIGHER_IS_BETTER = ("accuracy", "spearman")
MEASURES = LOWER_IS_BETTER + HIGHER_IS_BETTER


@dataclass(frozen=True)
class Figures:
    """What was measured on each of n blocks or examples, in order; None where the task has no such thing.

    Attributes:
        nll: (n,) mean negative log likelihood of each block, nats a token.
        correct: (n,) bool, for each example.
        kl: (n,) mean distortion of each block, nats a token or example.
        answers: (n,) the likeliest class, or (n, T) the likeliest token at each position.
        similarity: (n,) of each pair of sentences, by the network; ``gold`` (n,) by people.
    """

    nll: Floats | None = None
    correct: NDArray[np.bool_] | None = None
    kl: Floats | None = None
    answers: NDArray[np.integer[Any]] | None = None
    similarity: Floats | None = None
    gold: Floats | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a network scores, and how far it is from its original.

    Attributes:
        blocks: token blocks, or examples.
        perplexity: exp of the mean negative log likelihood, of language models.
        accuracy: fraction of examples, of classifiers.
        spearman: rank correlation with people's scores, of encoders on pairs of sentences.
        kl: distortion, nats a token or example; only against an original.
        reference: the original's scores on the same data.
        difference: of perplexity, accuracy or rank correlation, this network's less the original's, paired.
        warnings: sentences that belong beside the figures.
        figures: what the intervals were made of.
    """

    blocks: int
    perplexity: Interval | None = None
    accuracy: Interval | None = None
    spearman: Interval | None = None
    kl: Interval | None = None
    reference: Evaluation | None = None
    difference: Interval | None = None
    warnings: tuple[str, ...] = ()
    figures: Figures = field(default=Figures(), repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """What was measured, without what was not."""
        found: dict[str, Any] = {"blocks": self.blocks}
        for name in ("perplexity", "accuracy", "spearman", "kl", "difference"):
            interval: Interval | None = getattr(self, name)
            if interval is not None:
                found[name] = interval.as_json()
        if self.reference is not None:
            found["reference"] = self.reference.as_json()
        if self.warnings:
            found["warnings"] = list(self.warnings)
        return found


def scores(blocks: int, figures: Figures, **more: Any) -> Evaluation:
    """Each score that the figures of `blocks` blocks hold, with its interval; ``more`` as in ``Evaluation``."""
    nll, correct, kl, similarity, gold = (
        figures.nll,
        figures.correct,
        figures.kl,
        figures.similarity,
        figures.gold,
    )
    return Evaluation(
        blocks=blocks,
        perplexity=None if nll is None else block_bootstrap(nll, lambda m: _exp(m[:, 0])),
        accuracy=None if correct is None else wilson(int(correct.sum()), len(correct)),
        spearman=None if similarity is None or gold is None else rank_correlation(gold, similarity).interval(),
        kl=None if kl is None else block_bootstrap(kl),
        figures=figures,
        **more,
    )


def differences(a: Figures, b: Figures) -> dict[str, Difference]:
    """What the first network has more than the second, by measure; both saw the same data."""
    found: dict[str, Difference] = {}
    if a.kl is not None and b.kl is not None:
        found["kl"] = paired(a.kl, b.kl)
    if a.nll is not None and b.nll is not None:
        found["nll"] = paired(a.nll, b.nll)
        found["perplexity"] = bootstrap(np.stack([a.nll, b.nll], axis=1), lambda m: _exp(m[:, 0]) - _exp(m[:, 1]))
    if a.correct is not None and b.correct is not None:
        found["accuracy"] = Outcomes.of(a.correct, b.correct)
    if a.similarity is not None and b.similarity is not None and a.gold is not None:
        found["spearman"] = rank_correlation(a.gold, a.similarity, b.similarity)
    return found


def _exp(nats: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(nats))
