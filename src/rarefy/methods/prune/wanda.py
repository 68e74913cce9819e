"""Wanda: the weights go that carry least, by their own size and that of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.evidence import SecondMoment
from rarefy.maths.masks import largest_in_rows, largest_of_each
from rarefy.methods.prune import Pruning

if TYPE_CHECKING:
    from rarefy.codes import Code
    from rarefy.evidence import Site, Statistic


@dataclass(frozen=True)
class Wanda(Pruning):
    """Keep the largest |w_ri| |x_i| of each output row (Sun et al. 2024, "A simple and effective pruning approach for
    large language models", equation 1), or the n largest of every m inputs in it.

    What is left keeps its code, so pruning a quantized weight keeps its integers.
    """

    needs: ClassVar[frozenset[Statistic]] = frozenset({SecondMoment()})

    def encode(self, site: Site) -> Code:
        x = np.sqrt(np.diagonal(site.statistics[SecondMoment()].s))
        score = np.abs(site.weight()) * x
        keep = largest_of_each(score, self.n, self.m) if self.m else largest_in_rows(score, self.sparsity)
        return site.code.masked(keep.reshape(site.shape))
