"""AWQ: stretch the columns that carry large activations before rounding to nearest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.scaled import Scaled
from rarefy.evidence import SecondMoment
from rarefy.maths.linalg import damped
from rarefy.method import PerTensor, setting
from rarefy.methods.quantize.rtn import RTN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence import Site, Statistic

LEAST = 1e-4
"""What x^alpha is taken to be at least, as in the authors' program."""


@dataclass(frozen=True)
class AWQ(PerTensor):
    """W ~ Q(W diag(s)) diag(s)^-1 with s = x^alpha, x the typical size of an input; the alpha under which the output
    moves least (Lin et al. 2024, "AWQ: activation-aware weight quantization", equations 4 and 5)."""

    bits: int = setting(4, "bits a weight before entropy coding", low=2, high=8)
    group: int = setting(64, "inputs that share a scale; 0: one scale an output row; -1: one for the tensor", low=-1)
    symmetric: bool = setting(False, "zero point in the middle instead of fitted to the range")
    scale: str = setting("BF16", "element type of the scales, of columns too", choices=("BF16", "F16", "F32"))
    points: int = setting(20, "how many alphas are tried: 0, 1/points, 2/points, ..", low=1, high=1000)

    needs: ClassVar[frozenset[Statistic]] = frozenset({SecondMoment()})

    def encode(self, site: Site) -> Code:
        w, moment = site.weight(), site.statistics[SecondMoment()]
        grid = RTN(self.bits, self.group, self.symmetric, self.scale)
        best: Code = grid.encode(site)  # alpha = 0, which needs no scale of columns
        least = moment.energy(w - best.decode().reshape(w.shape))
        x = np.sqrt(np.diagonal(damped(moment.s.astype(np.float64), 0)))
        for i in range(1, self.points):
            columns = self._columns(x ** (i / self.points))
            stretched = Dense.of((w / columns.decode()).reshape(site.shape))
            code = Scaled(columns, grid.encode(dataclasses.replace(site, code=stretched)), group=1)
            lost = moment.energy(w - code.decode().reshape(w.shape))
            if lost < least:
                best, least = code, lost
        return best

    def _columns(self, s: NDArray[np.float64]) -> Dense:
        """1/s, the geometric mean of its ends 1, as it will be stored."""
        s = np.maximum(s, LEAST)
        return Dense.of((np.sqrt(s.max() * s.min()) / s).astype(np.float32), self.scale)
