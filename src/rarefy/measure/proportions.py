"""Accuracies: Wilson's score interval (1927), Newcombe's for paired differences (1998), McNemar's test (1947)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rarefy.units import Interval

_Z = 1.959963984540054  # the normal quantile at 0.975
_FARTHEST = 37.0  # standard deviations beyond which the normal law has no digits left


def wilson(successes: int, trials: int, z: float = _Z) -> Interval:
    """Wilson's score interval of a proportion, 95 % unless ``z``, a normal quantile, says otherwise.

    Raises:
        ValueError: there are no trials, or more successes than trials.

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials have no proportion")
    p = successes / trials
    scale = 1.0 + z**2 / trials
    centre = (p + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / scale
    # At the edges the exact end is p itself, which rounding would miss on the wrong side.
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


@dataclass(frozen=True)
class Outcomes:
    """How often two networks were right on the same examples: both, only the first, only the second, neither."""

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, correct: ArrayLike, others: ArrayLike) -> Outcomes:
        """Counts of (n,) bools, what each network got right.

        Raises:
            ValueError: the shapes differ, or there are no examples.
        """
        x, y = np.asarray(correct, dtype=bool), np.asarray(others, dtype=bool)
        if x.shape != y.shape:
            raise ValueError(f"paired data need the same examples, got {x.shape} and {y.shape}")
        if x.size == 0:
            raise ValueError("no examples have no accuracy")
        return cls(int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum()))

    @property
    def value(self) -> float:
        """The first's accuracy less the second's, as a fraction."""
        return (self.first - self.second) / (self.both + self.first + self.second + self.neither)

    def interval(self, z: float = _Z) -> Interval:
        """Of ``value``, 95 % unless ``z`` says otherwise.

        Source: Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10.
        """
        n = self.both + self.first + self.second + self.neither
        one, two = wilson(self.both + self.first, n, z), wilson(self.both + self.second, n, z)
        phi = self._correlation()
        low = _joined(one.value - one.low, two.high - two.value, phi)
        high = _joined(two.value - two.low, one.high - one.value, phi)
        return Interval(self.value, max(-1.0, self.value - low), min(1.0, self.value + high))

    def p_value(self) -> float:
        """McNemar's exact test: how often two equally good networks would split as unevenly, by chance, the
        examples that only one of them gets right.

        Source: McNemar (1947), Psychometrika 12; the exact binomial form.
        """
        from scipy.stats import binomtest

        split = self.first + self.second
        return float(binomtest(self.first, split).pvalue) if split else 1.0

    def at_least(self, limit: float) -> float:
        """One-sided confidence that the difference is no less than ``limit``: the level at which the one-sided
        interval of Newcombe just reaches it."""
        from scipy.optimize import brentq
        from scipy.stats import norm

        if limit > self.value:
            return 1.0 - Outcomes(self.both, self.second, self.first, self.neither).at_least(-limit)

        def beyond(z: float) -> float:
            return self.interval(z).low - limit

        return float(norm.cdf(_FARTHEST if beyond(_FARTHEST) > 0 else brentq(beyond, 0.0, _FARTHEST)))

    def at_most(self, limit: float) -> float:
        """One-sided confidence that the difference is no more than ``limit``."""
        return Outcomes(self.both, self.second, self.first, self.neither).at_least(-limit)

    def _correlation(self) -> float:
        """phi of the 2 x 2 table, continuity-corrected where it is positive."""
        a, b, c, d = self.both, self.first, self.second, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if margins == 0:
            return 0.0
        covariance: float = a * d - b * c
        if covariance > 0:
            covariance = max(0.0, covariance - (a + b + c + d) / 2)
        return covariance / math.sqrt(margins)


def _joined(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
