"""GPTQ: sequential rounding with error feedback under the second moment of the layer's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes import Dense, Grid
from rarefy.evidence import SecondMoment
from rarefy.maths import affine
from rarefy.maths.rounding import BLOCK, block_for, round_sequentially
from rarefy.method import PerTensor, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.evidence import Site, Statistic


@dataclass(frozen=True)
class GPTQ(PerTensor):
    """Round column after column, each error fed into the columns to come (Frantar et al. 2023, algorithm 1).

    With `act_order` the columns are taken by falling mean square of their input, and the grids of all groups are
    fitted beforehand, so that groups stay contiguous in the file.
    """

    bits: int = setting(4, "bits a weight before entropy coding", low=2, high=8)
    group: int = setting(64, "inputs that share a scale; 0: one scale an output row", low=0)
    symmetric: bool = setting(False, "zero point in the middle instead of fitted to the range")
    damping: float = setting(0.01, "added to the second moment's diagonal, as a share of its mean", low=0, high=10)
    act_order: bool = setting(False, "columns by falling mean square of their input")
    scale: str = setting("BF16", "element type of the scales", choices=("BF16", "F16", "F32"))

    needs: ClassVar[frozenset[Statistic]] = frozenset({SecondMoment()})

    def encode(self, site: Site) -> Grid:
        w, moment, keep = site.weight(), site.statistics[SecondMoment()], site.keep()
        columns = w.shape[1]
        group = min(self.group or columns, columns)
        order = np.argsort(-np.diagonal(moment.s), kind="stable") if self.act_order else None
        u = moment.factor(self.damping, order)
        # A row per group and per column: the rounding takes column after column.
        s, z = (np.ascontiguousarray(part.T) for part in self._fit(*affine.group_ranges(w, group)))
        q = np.empty((columns, w.shape[0]), np.uint8)

        def open_group(start: int, rest: NDArray[np.float32]) -> None:
            if start % group == 0:
                own = rest[:group]
                if keep is not None:
                    own = np.where(keep.T[start : start + group], own, np.float32(0))
                s[start // group], z[start // group] = self._fit(own.min(axis=0), own.max(axis=0))

        def round_column(i: int, column: NDArray[np.float32]) -> NDArray[np.float32]:
            j = i if order is None else order[i]
            scale, zero = s[j // group], z[j // group]
            level = affine.to_grid(column, scale, zero, self.bits)
            if keep is not None:
                level = np.where(keep[:, j], level, zero)
            q[j] = level
            value: NDArray[np.float32] = (level - zero) * scale
            return value

        round_sequentially(
            w if order is None else w[:, order],
            u,
            round_column,
            block=block_for(group if group < columns else BLOCK),
            opener=open_group if order is None else None,
        )
        return Grid(
            np.ascontiguousarray(q.T),
            Dense.of(s.T, self.scale),
            None if self.symmetric else np.ascontiguousarray(z.T).astype(np.uint8),
            bits_per_symbol=self.bits,
            group=group,
            shape=site.shape,
        )

    def _fit(
        self, low: NDArray[np.float32], high: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return affine.fit(low, high, self.bits, symmetric=self.symmetric, scale_dtype=self.scale)
