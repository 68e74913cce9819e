"""Intervals: how far a figure would move with other data.

Tokens of one block depend on each other, blocks hardly do, so blocks are what is resampled: the
bootstrap of Efron (1979) on blocks (Kuensch 1989; the non-overlapping form of Carlstein 1986).
Accuracies get Wilson's score interval (1927), their paired differences Newcombe's (1998).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rarefy.units import Interval

MIN_BLOCKS = 64
RESAMPLES = 2000

_LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile at (1 + _LEVEL) / 2
_DRAWS_AT_ONCE = 1 << 21

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


def too_few(blocks: int) -> str | None:
    """A sentence for the reader when ``blocks`` are too few for the interval to be trusted, else None."""
    if blocks >= MIN_BLOCKS:
        return None
    return f"the intervals rest on {blocks} blocks of data; with fewer than {MIN_BLOCKS} they come out too narrow"


def block_bootstrap(
    blocks: ArrayLike,
    statistic: Statistic | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """95 % percentile bootstrap interval of a statistic of the mean over blocks.

    Args:
        blocks: mean of each block, (n,) or (n, k) for k figures measured on the same blocks; all
            blocks count the same.
        statistic: maps means (m, k) to values (m,); left out, the mean itself, and k must be 1.
        seed: of the resampling.
        resamples: how many times n blocks are drawn with replacement.

    Returns:
        The statistic of all blocks with its interval, in the statistic's unit. From a single block
        the ends are infinite: it says nothing about its neighbours.

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
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // (n * k))
    counts = [min(step, resamples - start) for start in range(0, resamples, step)]
    means = [table[rng.integers(0, n, (count, n))].mean(axis=1) for count in counts]
    # No interpolation between order statistics: one of the two may be infinite.
    values = np.sort(statistic(np.concatenate(means)))
    tail = (1.0 - _LEVEL) / 2.0 * (resamples - 1)
    low, high = values[math.floor(tail)], values[math.ceil(resamples - 1 - tail)]
    return Interval(value, float(low), float(high))


def paired_bootstrap(blocks: ArrayLike, others: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Interval of ``mean(blocks) - mean(others)``, both measured on the same blocks in the same order.

    Args:
        blocks, others: (n,) block means in one unit.

    Raises:
        ValueError: the shapes differ, or there are no blocks.
    """
    a, b = np.asarray(blocks, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired data need the same blocks, got {a.shape} and {b.shape}")
    return block_bootstrap(a - b, seed=seed, resamples=resamples)


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's 95 % score interval of a proportion.

    Raises:
        ValueError: there are no trials, or more successes than trials.

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials have no proportion")
    p = successes / trials
    scale = 1.0 + _Z**2 / trials
    centre = (p + _Z**2 / (2 * trials)) / scale
    half = _Z * math.sqrt(p * (1 - p) / trials + _Z**2 / (4 * trials**2)) / scale
    # At the edges the exact end is p itself, which rounding would miss on the wrong side.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def paired_accuracy(correct: ArrayLike, others: ArrayLike) -> Interval:
    """95 % interval of the difference of two accuracies on the same examples.

    Args:
        correct, others: (n,) bool, what each network got right.

    Returns:
        ``mean(correct) - mean(others)`` with its interval, as fractions.

    Raises:
        ValueError: the shapes differ, or there are no examples.

    Source: Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10.
    """
    x, y = np.asarray(correct, dtype=bool), np.asarray(others, dtype=bool)
    if x.shape != y.shape:
        raise ValueError(f"paired data need the same examples, got {x.shape} and {y.shape}")
    n = x.size
    a, d = int((x & y).sum()), int((~x & ~y).sum())
    b, c = int((x & ~y).sum()), int((~x & y).sum())
    first, second = wilson(a + b, n), wilson(a + c, n)
    phi = _correlation(a, b, c, d)
    difference = (b - c) / n
    low = _joined(first.value - first.low, second.high - second.value, phi)
    high = _joined(second.value - second.low, first.high - first.value, phi)
    return Interval(difference, max(-1.0, difference - low), min(1.0, difference + high))


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """phi of the 2 x 2 table, continuity-corrected where it is positive."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    covariance: float = a * d - b * c
    if covariance > 0:
        covariance = max(0.0, covariance - (a + b + c + d) / 2)
    return covariance / math.sqrt(margins)


def _joined(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def _first(means: Floats) -> Floats:
    return means[:, 0]
