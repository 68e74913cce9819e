"""SparseGPT: prune column after column, and let the weights that are left make up for those that went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes import Dense, Sparse
from rarefy.evidence import SecondMoment
from rarefy.maths.masks import largest, largest_of_each
from rarefy.maths.rounding import BLOCK, block_for, round_sequentially
from rarefy.method import setting
from rarefy.methods.prune import Pruning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence import Site, Statistic

    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SparseGPT(Pruning):
    """Optimal brain surgery in one sweep over the columns (Frantar and Alistarh 2023, "SparseGPT: massive language
    models can be accurately pruned in one-shot", algorithm 1): the cheapest w_ri^2 / U_ii^2 of each block of columns
    go, chosen when the block's turn comes, and what is lost is fed into the columns to come.
    """

    block: int = setting(128, "columns among which weights are chosen at once; m of an n:m pattern", low=1)
    damping: float = setting(0.01, "added to the second moment's diagonal, as a share of its mean", low=0, high=10)

    needs: ClassVar[frozenset[Statistic]] = frozenset({SecondMoment()})

    def encode(self, site: Site) -> Code:
        w, before = site.weight(), site.keep()
        out, columns = w.shape
        u = site.statistics[SecondMoment()].factor(self.damping)
        d = np.square(np.diagonal(u))[:, None]
        run = min(self.m or self.block, columns)
        # A row per column of W, as the sweep takes them.
        keep = np.ones((columns, out), bool)

        def choose(start: int, rest: Floats) -> None:
            if start % run:
                return
            stop = min(start + run, columns)
            score = np.square(rest[: stop - start]) / d[start:stop]
            if before is not None:
                score[~before.T[start:stop]] = -1  # they are gone already, so they are the first to go
            if self.m:
                keep[start:stop] = largest_of_each(score.T, self.n, self.m).T
            else:
                # Rounded up to here, not block by block: the tensor's share is exact.
                keep[start:stop] = largest(
                    score, round(self.sparsity * out * stop) - round(self.sparsity * out * start)
                )
            if before is not None:
                keep[start:stop] &= before.T[start:stop]

        def prune(i: int, column: Floats) -> Floats:
            return np.where(keep[i], column, np.float32(0))

        block = BLOCK // run * run or block_for(run)
        values = round_sequentially(w, u, prune, block=block, opener=choose, run=run)
        return _stored(site, values, keep.T)


def _stored(site: Site, values: Floats, keep: Mask) -> Code:
    """A support and dense values, in the element type of the dense weights that they replace; else in float32."""
    masked = site.code.masked(keep.reshape(site.shape))
    if isinstance(masked, Sparse) and isinstance(masked.inner, Dense):
        return masked.with_free({"values": values.reshape(site.shape)})
    return Dense.of(values.reshape(site.shape)).masked(keep.reshape(site.shape))
