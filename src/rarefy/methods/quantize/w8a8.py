"""Eight bits for weights and for what they multiply, so that engines compute in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rarefy.edits import QuantizedInput
from rarefy.evidence import Ranges
from rarefy.method import PerTensor, setting
from rarefy.methods.quantize.rtn import RTN

if TYPE_CHECKING:
    from rarefy.codes import Grid
    from rarefy.evidence import Site, Statistic


@dataclass(frozen=True)
class W8A8(PerTensor):
    """Weights on a symmetric grid of 8 bits, one scale an output row; inputs on one of 8 bits while the network runs.

    A product is then s_x s_r sum_i q_i p_i, all integers (Jacob et al. 2018, equation 4). The inputs' grid has one
    scale a token, found as it comes (dynamic), or one for all, found by calibration (static).
    """

    static: bool = setting(False, "one scale for all inputs of a layer, by calibration, in place of one a token")
    scale: str = setting("BF16", "element type of the weights' scales", choices=("BF16", "F16", "F32"))

    @property
    def needs(self) -> frozenset[Statistic]:  # type: ignore[override]
        return frozenset({Ranges()}) if self.static else frozenset()

    def encode(self, site: Site) -> Grid:
        return RTN(bits=8, group=0, symmetric=True, scale=self.scale).encode(site)

    def edit(self, site: Site) -> QuantizedInput | None:
        if site.kind == "embedding":
            return None
        return QuantizedInput(8, site.statistics[Ranges()] / 127 or None if self.static else None)
