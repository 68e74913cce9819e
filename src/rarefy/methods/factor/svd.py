"""Truncated SVD under the second moment of the inputs, of a matrix or of what coding it lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.linalg import eigh, qr

from rarefy.codes import Dense, Grid
from rarefy.codes.base import matrix
from rarefy.codes.factored import Factored, fits
from rarefy.codes.summed import Sum, adds_to
from rarefy.evidence import SecondMoment
from rarefy.maths import affine
from rarefy.maths.linalg import damped
from rarefy.method import PerTensor, setting
from rarefy.model import same_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence import Site, Statistic


@dataclass(frozen=True)
class SVD(PerTensor):
    """The product of two factors that moves the layer's output least (Wang et al. 2024, "SVD-LLM: truncation-aware
    singular value decomposition for large language model compression", section 3.1).

    With `residual`, the product is added to what earlier methods made of the matrix and stands for what they lost of
    the original (Zhang et al. 2024, "LQER", section 3.2; Liu et al. 2024, "EoRA").
    """

    share: float = setting(0.5, "numbers in both factors, as a share of the matrix's", low=1e-4, high=1)
    rank: int = setting(0, "rank of every matrix, in place of the share", low=0)
    residual: bool = setting(False, "add the factors to what earlier methods made of the matrix, to correct it")
    bits: int = setting(6, "bits a number of the factors before entropy coding", low=2, high=8)
    damping: float = setting(0.01, "added to the second moment's diagonal, as a share of its mean", low=0, high=10)

    needs: ClassVar[frozenset[Statistic]] = frozenset({SecondMoment()})

    @property
    def adds(self) -> bool:
        return self.residual

    def declines(self, site: Site) -> str:
        reason = super().declines(site)
        if reason:
            return reason
        rank = self._rank(site)
        if not fits(rank, site.shape):
            return f"factors of rank {rank} hold more numbers than it" if rank else "its share is less than rank 1"
        if not self.residual:
            return ""
        if not adds_to(site.code.node()):
            return "it is a sum already"
        return "nothing was lost of it" if site.original and same_values(site.code, site.original) else ""

    def encode(self, site: Site) -> Code:
        w = site.weight()
        if self.residual:
            assert site.original is not None
            w = site.original.decode().reshape(w.shape) - w
        moment = site.statistics[SecondMoment()]
        p = left_vectors(w.astype(np.float64), damped(moment.s.astype(np.float64), self.damping), self._rank(site))
        b = self._grid(p.T @ w, whole=False)

        def price(factored: Factored) -> float:
            """In bits: what it takes, and what a quantizer would take to lose as little, a bit a weight for 6 dB."""
            lost = max(moment.energy(w - factored.decode().reshape(w.shape)), np.finfo(np.float32).tiny)
            return factored.bits() + w.size / 2 * math.log2(lost)

        both = [Factored(self._grid(p, whole=whole), b, shape=site.shape) for whole in (True, False)]
        factored = min(both, key=price)
        return Sum(site.code, factored) if self.residual else factored

    def _rank(self, site: Site) -> int:
        out, columns = matrix(site.shape)
        return self.rank or int(self.share * out * columns / (out + columns))

    def _grid(self, factor: NDArray[np.float64], *, whole: bool) -> Grid:
        """A factor to nearest, with one scale or one a row."""
        f = factor.astype(np.float32)
        low, high = affine.group_ranges(f, f.shape[1])
        if whole:
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        s, z = affine.fit(low, high, self.bits, symmetric=True, scale_dtype="BF16")
        q = affine.to_grid(f, s, z, self.bits).astype(np.uint8)
        return Grid(q, Dense.of(s, "BF16"), None, bits_per_symbol=self.bits, group=f.shape[1], shape=f.shape)


def left_vectors(w: NDArray[np.float64], s: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """P (out, rank), orthonormal: the first left singular vectors of W S^1/2.

    P P^T W is then the matrix of that rank for which tr((W - Q) S (W - Q)^T) is least (Eckart and Young 1936), and no
    S^-1/2 is needed to get back from W S^1/2. From the smaller of the two matrices of inner products.
    """
    out, columns = w.shape
    if out <= columns:
        return _first(w @ s @ w.T, rank)
    x = w @ np.linalg.cholesky(s)
    p: NDArray[np.float64] = qr(x @ _first(x.T @ x, rank), mode="economic", check_finite=False)[0]
    return p


def _first(gram: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Eigenvectors of the largest eigenvalues."""
    n = len(gram)
    vectors: NDArray[np.float64]
    _, vectors = eigh(gram, subset_by_index=(n - rank, n - 1), overwrite_a=True, check_finite=False)
    return vectors
