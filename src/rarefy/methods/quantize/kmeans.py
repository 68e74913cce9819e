"""Weight sharing: the weights of a tensor fall into clusters, and each is stored as the number of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Code, Codebook, Dense, Sparse
from rarefy.codes.positions import Positions
from rarefy.method import PerTensor, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.evidence import Site

LONGEST = 1000
"""Iterations of Lloyd's at most. It always ends, mostly within a hundred."""


@dataclass(frozen=True)
class KMeans(PerTensor):
    """Lloyd's k-means over the weights that a pruning left, from centroids evenly between least and largest.

    Han, Mao and Dally 2016 ("Deep Compression"), section 3: the linear initialization keeps centroids for the few
    large weights, which matter most. Needs no data.
    """

    bits: int = setting(5, "of an index: 2^bits centroids a tensor, less where clusters stay empty", low=1, high=8)

    def encode(self, site: Site) -> Code:
        weight, keep = site.weight(), site.keep()
        kept = weight.reshape(-1) if keep is None else weight[keep]
        if kept.size == 0:
            return site.code
        # Where most are left, a centroid for the zeros costs less than a support.
        own = kept.size < weight.size < 2 * kept.size
        centroids = lloyd(kept, linear(kept, (1 << self.bits) - own))
        index = nearest(weight, centroids)
        if own and keep is not None:
            zero = int(np.searchsorted(centroids, 0.0))
            centroids = np.insert(centroids, zero, 0.0)
            index = np.where(keep, index + (index >= zero), zero)
        shared = Codebook(Dense.of(centroids, "BF16"), index.astype(np.uint8).reshape(site.shape))
        if keep is None or own:
            return shared
        support = keep.reshape(site.shape)
        return min(Sparse(support, shared), Positions(support, shared), key=Code.bits)


def linear(weights: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """k centroids (k,) evenly from the least weight to the largest."""
    return np.linspace(float(weights.min()), float(weights.max()), k)


def lloyd(weights: NDArray[np.float32], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centroids, ascending, such that each is the mean of the weights (n,) nearest to it (Lloyd 1982); empty ones go.

    In one dimension clusters are runs of the sorted weights, so an iteration is k binary searches and running sums.
    """
    ordered = np.sort(weights.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(LONGEST):
        ends = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        ends = np.concatenate([[0], ends, [ordered.size]])
        counts, filled = np.diff(ends), np.diff(ends) > 0
        means = np.diff(sums[ends])[filled] / counts[filled]
        if filled.all() and np.array_equal(means, centroids):
            break
        centroids = means
    return centroids


def nearest(weights: NDArray[np.float32], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index of the centroid (k,), ascending, that is nearest to each weight."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights)
