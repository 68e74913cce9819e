"""Bits, nats, bytes and the points drawn from them: the only file with a log base.

Rate is counted in bits, distortion in nats; sizes for people are decimal (KB = 10^3 bytes,
MB = 10^6 bytes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

NATS_PER_BIT = math.log(2.0)

Quantity = TypeVar("Quantity", float, NDArray[np.float32], NDArray[np.float64])


def bits(nats: Quantity) -> Quantity:
    """Nats as bits."""
    return nats / NATS_PER_BIT


def nats(bits: Quantity) -> Quantity:
    """Bits as nats."""
    return bits * NATS_PER_BIT


def information(probability: ArrayLike) -> NDArray[np.float64]:
    """-log2 p in bits, elementwise; infinite where p is zero (Shannon 1948)."""
    with np.errstate(divide="ignore"):
        return -np.log2(np.asarray(probability, dtype=np.float64))


def entropy(counts: ArrayLike) -> float:
    """Empirical entropy in bits a symbol of symbols seen ``counts`` times; 0.0 when none was seen."""
    seen = np.asarray(counts, dtype=np.float64).ravel()
    total = seen.sum()
    if total == 0.0:
        return 0.0
    seen = seen[seen > 0.0] / total
    return max(0.0, float(-(seen * np.log2(seen)).sum()))


def perplexity(nats_per_token: float) -> float:
    """exp of a mean negative log likelihood; infinite where that overflows."""
    try:
        return math.exp(nats_per_token)
    except OverflowError:
        return math.inf


def bpw(bytes: float, weights: int) -> float:
    """Bits a weight of a network of ``weights`` unique parameters stored in ``bytes`` bytes.

    Raises:
        ValueError: there are no weights.
    """
    if weights <= 0:
        raise ValueError(f"bits a weight need at least one weight, got {weights}")
    return 8.0 * bytes / weights


def human(bytes: float) -> str:
    """A size to three significant digits: ``"512 bytes"``, ``"8.56 KB"``, ``"67.4 MB"``, ``"1.20 GB"``."""
    if abs(bytes) < 999.5:
        return f"{bytes:.0f} byte{'' if round(bytes) == 1 else 's'}"
    scaled = float(bytes)
    for name in ("KB", "MB", "GB", "TB"):
        scaled /= 1000.0
        if abs(scaled) < 999.5 or name == "TB":
            break
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f} {name}"


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval, all in the same unit.

    The ends are infinite where the data bound nothing, e.g. a mean over a single block.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def as_json(self) -> dict[str, float | None]:
        """``{"value", "low", "high"}``; what is not finite becomes None, which JSON can carry."""
        return {name: end if math.isfinite(end) else None for name, end in asdict(self).items()}


@dataclass(frozen=True)
class Point:
    """One network on the plane: rate in bits, distortion in nats, task score (accuracy or perplexity)."""

    rate: float
    distortion: Interval
    score: Interval | None = None


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other dominates, by rising rate: the Pareto frontier, not its convex hull.

    A point dominates another when neither its rate nor its distortion (the estimate, not the
    interval) is larger and one of them is smaller. Of points equal in both the first is kept. The
    hull is not used: a network between two others cannot be had by time sharing.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.rate, p.distortion.value)):
        if not best or point.distortion.value < best[-1].distortion.value:
            best.append(point)
    return best
