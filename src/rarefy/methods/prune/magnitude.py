"""Magnitude pruning: the smallest weights become zero. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.maths.masks import largest, largest_of_each
from rarefy.methods.prune import Pruning

if TYPE_CHECKING:
    from rarefy.codes import Code
    from rarefy.evidence import Site


@dataclass(frozen=True)
class Magnitude(Pruning):
    """Keep the largest weights of each tensor (Han et al. 2015), or the n largest of every m inputs in a row.

    What is left keeps its code, so pruning a quantized weight keeps its integers.
    """

    def encode(self, site: Site) -> Code:
        size = np.abs(site.weight())
        keep = largest_of_each(size, self.n, self.m) if self.m else largest(size, round(self.sparsity * size.size))
        return site.code.masked(keep.reshape(site.shape))
