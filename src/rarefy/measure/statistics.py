"""Intervals: how far a figure would move with other data.

Tokens of one block depend on each other, blocks hardly do, so blocks are what is resampled: the
bootstrap of Efron (1979) on blocks (Kuensch 1989; the non-overlapping form of Carlstein 1986).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarefy.units import Interval

MIN_BLOCKS = 64
RESAMPLES = 2000
LEVEL = 0.95

_DRAWS_AT_ONCE = 1 << 21

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


def too_few(blocks: int) -> str | None:
    """A sentence for the reader when ``blocks`` are too few for the interval to be trusted, else None."""
    if blocks >= MIN_BLOCKS:
        return None
    return f"the intervals rest on {blocks} blocks of data; with fewer than {MIN_BLOCKS} they come out too narrow"


@dataclass(frozen=True)
class Bootstrap:
    """A figure, and what it came out as when the data were drawn again.

    Attributes:
        value: from the data as they are.
        draws: (resamples,) ascending. From a single block they are -inf and inf: it says nothing about
            its neighbours.
    """

    value: float
    draws: Floats

    def interval(self) -> Interval:
        """The 95 % percentile interval, between the draws that 2.5 % lie below and above."""
        # No interpolation between order statistics: one of the two may be infinite.
        tail = (1.0 - LEVEL) / 2.0 * (len(self.draws) - 1)
        low, high = self.draws[math.floor(tail)], self.draws[math.ceil(len(self.draws) - 1 - tail)]
        return Interval(self.value, float(low), float(high))

    def at_most(self, limit: float) -> float:
        """One-sided confidence that the figure is no more than ``limit``: the share of draws that are.

        Never 1, since a finite number of draws cannot say so (Davison and Hinkley 1997, eq. 4.11).
        """
        return float((self.draws <= limit).sum()) / (len(self.draws) + 1)

    def at_least(self, limit: float) -> float:
        """One-sided confidence that the figure is no less than ``limit``."""
        return float((self.draws >= limit).sum()) / (len(self.draws) + 1)


def bootstrap(
    blocks: ArrayLike,
    statistic: Statistic | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Bootstrap:
    """A statistic of the mean over blocks, and its bootstrap.

    Args:
        blocks: mean of each block, (n,) or (n, k) for k figures measured on the same blocks; all
            blocks count the same.
        statistic: maps means (m, k) to values (m,); left out, the mean itself, and k must be 1.
        seed: of the resampling.
        resamples: how many times n blocks are drawn with replacement.

    Raises:
        ValueError: there are no blocks, or k > 1 without a statistic.

    Source: Efron (1979), Annals of Statistics 7; Kuensch (1989), Annals of Statistics 17.
    """
    table = np.asarray(blocks, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    n, k = table.shape
    if n == 0:
        raise ValueError("an interval needs at least one block")
    if statistic is None:
        if k != 1:
            raise ValueError(f"{k} figures a block need a statistic that joins them")
        statistic = _first
    value = float(statistic(table.mean(axis=0, keepdims=True))[0])
    if n == 1:
        return Bootstrap(value, np.array([-math.inf, math.inf]))
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // (n * k))
    counts = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = [table[rng.integers(0, n, (count, n))].mean(axis=1) for count in counts]
    return Bootstrap(value, np.sort(statistic(np.concatenate(means))))


def block_bootstrap(
    blocks: ArrayLike, statistic: Statistic | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The 95 % interval of ``bootstrap``, in the statistic's unit; from a single block its ends are infinite."""
    return bootstrap(blocks, statistic, seed=seed, resamples=resamples).interval()


def paired_bootstrap(blocks: ArrayLike, others: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Interval of ``mean(blocks) - mean(others)``, both measured on the same blocks in the same order.

    Args:
        blocks, others: (n,) block means in one unit.

    Raises:
        ValueError: the shapes differ, or there are no blocks.
    """
    return block_bootstrap(_paired(blocks, others), seed=seed, resamples=resamples)


def paired(blocks: ArrayLike, others: ArrayLike) -> Bootstrap:
    """``mean(blocks) - mean(others)``, as ``paired_bootstrap`` has it, with its draws."""
    return bootstrap(_paired(blocks, others))


def rank_correlation(gold: ArrayLike, *scores: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Bootstrap:
    """Spearman's rank correlation of scores with the gold, or what a first has more of it than a second, paired.

    Args:
        gold: (n,) what people said.
        scores: (n,) of one network, or of two on the same examples.

    Returns:
        rho(gold, first), less rho(gold, second) where there is one. Scores that are all equal rank
        nothing: their rho is 0.

    Source: Spearman (1904); ties by average ranks. The bootstrap is over examples.
    """
    from scipy import stats

    def statistic(gold: Floats, *scores: Floats, axis: int = -1) -> Floats:
        rhos = [_spearman(gold, each, axis) for each in scores]
        return rhos[0] if len(rhos) == 1 else rhos[0] - rhos[1]

    data = [np.asarray(each, dtype=np.float64) for each in (gold, *scores)]
    n = len(data[0])
    value = float(statistic(*data))
    if n < 2:
        return Bootstrap(value, np.array([-math.inf, math.inf]))
    found = stats.bootstrap(
        data,
        statistic,
        n_resamples=resamples,
        batch=max(1, _DRAWS_AT_ONCE // n),
        vectorized=True,
        paired=True,
        axis=-1,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return Bootstrap(value, np.sort(found.bootstrap_distribution))


def _spearman(first: Floats, second: Floats, axis: int) -> Floats:
    from scipy.stats import rankdata

    a, b = (_centred(rankdata(each, axis=axis), axis) for each in (first, second))
    scale = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return np.asarray((a * b).sum(axis) / np.where(scale > 0, scale, 1.0))


def _centred(ranks: Floats, axis: int) -> Floats:
    return np.asarray(ranks - ranks.mean(axis=axis, keepdims=True))


def _paired(blocks: ArrayLike, others: ArrayLike) -> NDArray[Any]:
    a, b = np.asarray(blocks, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired data need the same blocks, got {a.shape} and {b.shape}")
    return a - b


def _first(means: Floats) -> Floats:
    return means[:, 0]
