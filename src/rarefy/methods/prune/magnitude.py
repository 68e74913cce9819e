"""Magnitude pruning: the smallest weights become zero. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.errors import UsageError
from rarefy.method import PerTensor, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence import Site


@dataclass(frozen=True)
class Magnitude(PerTensor):
    """Keep the largest weights of each tensor (Han et al. 2015), or the n largest of every m inputs in a row.

    What is left keeps its code, so pruning a quantized weight keeps its integers.
    """

    sparsity: float = setting(0.5, "share of weights made zero, per tensor", low=0, high=1)
    n: int = setting(0, "with m: weights kept of every m consecutive inputs; 0: unstructured", low=0)
    m: int = setting(0, "with n: the pattern's length", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.n > 0) != (self.m > 0) or self.n > self.m:
            raise UsageError(f"{self.name()}: n={self.n}, m={self.m}", "an n:m pattern needs 0 < n <= m")

    def encode(self, site: Site) -> Code:
        size = np.abs(site.weight())
        keep = largest_of_each(size, self.n, self.m) if self.m else largest(size, self.sparsity)
        return site.code.masked(keep.reshape(site.shape))


def largest(size: NDArray[np.float32], sparsity: float) -> NDArray[np.bool_]:
    """The mask of all but the round(sparsity x count) smallest; among equals the first in row order go."""
    dropped = round(sparsity * size.size)
    keep = np.ones(size.size, bool)
    keep[np.argsort(size, axis=None, kind="stable")[:dropped]] = False
    return keep.reshape(size.shape)


def largest_of_each(size: NDArray[np.float32], n: int, m: int) -> NDArray[np.bool_]:
    """The mask of the n largest of every m consecutive entries of a row; a short last run keeps its n largest too."""
    rows, columns = size.shape
    m = min(m, columns)
    padded = np.full((rows, -(-columns // m) * m), -1, np.float32)
    padded[:, :columns] = size
    runs = padded.reshape(rows, -1, m)
    keep = np.zeros(runs.shape, bool)
    np.put_along_axis(keep, np.argsort(-runs, axis=2, kind="stable")[:, :, :n], True, axis=2)
    return keep.reshape(rows, -1)[:, :columns]
