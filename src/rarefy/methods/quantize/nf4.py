"""NormalFloat: four bits whose sixteen values are quantiles of a Gaussian. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rarefy.codes import Codebook, Dense, Grid
from rarefy.codes.grid import spread
from rarefy.codes.scaled import Scaled
from rarefy.maths import affine
from rarefy.method import PerTensor, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence import Site

TABLE: Final = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""Dettmers et al. 2023, appendix E, with the digits of the authors' package: zero among them, both ends too."""

SCALES_BITS, SCALES_GROUP = 8, 256
"""Double quantization: integers of so many bits stand for scales, and so many of those share a float32 scale."""


@dataclass(frozen=True)
class NF4(PerTensor):
    """Each weight of a block to the nearest NormalFloat value times the block's largest weight (Dettmers et al. 2023,
    "QLoRA: efficient finetuning of quantized LLMs", section 3)."""

    group: int = setting(64, "inputs that share a scale", low=1)
    double: bool = setting(True, "scales as integers of 8 bits, 256 of them to a float32 scale; else each in float32")

    def encode(self, site: Site) -> Scaled:
        w = site.weight()
        group = min(self.group, max(w.shape[1], 1))
        low, high = affine.group_ranges(w, group)
        largest = np.maximum(-low, high)
        stored = self._stored(largest.reshape(-1))
        # To the nearest value under the scale that is stored, not under the one that it came from.
        scale = stored.decode().reshape(largest.shape)
        ratio = w / spread(np.where(scale > 0, scale, np.float32(1)), group, w.shape[1])
        index = np.searchsorted((TABLE[1:] + TABLE[:-1]) / 2, ratio).astype(np.uint8)
        return Scaled(stored, Codebook(Dense.of(TABLE), index.reshape(site.shape)), group=group)

    def _stored(self, largest: NDArray[np.float32]) -> Code:
        """The scales of all blocks, row after row."""
        if not self.double:
            return Dense.of(largest)
        row, size = largest[None, :], min(SCALES_GROUP, max(largest.size, 1))
        s, z = affine.fit(*affine.group_ranges(row, size), SCALES_BITS, symmetric=False, scale_dtype="F32")
        q = affine.to_grid(row, spread(s, size, row.shape[1]), spread(z, size, row.shape[1]), SCALES_BITS)
        return Grid(
            q.astype(np.uint8),
            Dense.of(s, "F32"),
            z.astype(np.uint8),
            bits_per_symbol=SCALES_BITS,
            group=size,
            shape=largest.shape,
        )
