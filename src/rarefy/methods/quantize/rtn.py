"""Round to nearest: each weight to the closest level of its group's grid. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Dense, Grid
from rarefy.codes.grid import spread
from rarefy.maths import affine
from rarefy.method import PerTensor, setting

if TYPE_CHECKING:
    from rarefy.evidence import Site


@dataclass(frozen=True)
class RTN(PerTensor):
    """Round every weight to the nearest level of a grid that spans its group's range (Jacob et al. 2018, section 3)."""

    bits: int = setting(4, "bits a weight before entropy coding", low=2, high=8)
    group: int = setting(64, "inputs that share a scale; 0: one scale an output row; -1: one for the tensor", low=-1)
    symmetric: bool = setting(False, "zero point in the middle instead of fitted to the range")
    scale: str = setting("BF16", "element type of the scales", choices=("BF16", "F16", "F32"))

    def encode(self, site: Site) -> Grid:
        w = site.weight()
        columns = w.shape[1]
        group = min(self.group, columns) if self.group > 0 else columns
        low, high = affine.group_ranges(w, group)
        if self.group == -1:
            low, high = low.min(keepdims=True), high.max(keepdims=True)
        s, z = affine.fit(low, high, self.bits, symmetric=self.symmetric, scale_dtype=self.scale)
        q = affine.to_grid(w, spread(s, group, columns), spread(z, group, columns), self.bits)
        return Grid(
            q.astype(np.uint8),
            Dense.of(s, self.scale),
            None if self.symmetric else z.astype(np.uint8),
            bits_per_symbol=self.bits,
            group=group,
            shape=site.shape,
        )
