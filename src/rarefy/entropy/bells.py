"""Tables of a bell of given scale and shape, from integers alone.

A quantized weight is Gaussian with a scale that its row and its column tell, give or take. So the table of scale t is a
Gaussian of standard deviation 2^(t/8 - 4), rounded to integers, mixed with its like at scales around it: weights 1, 4,
6, 4, 1 at t - 2d, t - d, t, t + d, t + 2d. The shape d = 0, 1, .. 7 makes the tails heavier (D. F. Andrews and C. L.
Mallows, "Scale mixtures of normal distributions", 1974). A Gaussian's values follow from each other by
exp(-(x + h)^2 / 2) = exp(-x^2 / 2) exp(-h^2 / 2) exp(-h x), whose last factor is itself multiplied by exp(-h^2) from
step to step.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

K: Final = 12
"""Frequencies add up to 2^K."""

SHAPES: Final = 8

SCALES: Final = 88
"""Eighths of an octave: standard deviations 2^-4 .. 2^(6 7/8)."""

ESCAPE: Final = 128
"""-128 as a byte: stands for every symbol without a frequency, and for itself."""

ESCAPED_BITS: Final = 8

STEP: Final = 2145387520
"""2^31 exp(-h^2), h = 1/32."""

EIGHTHS: Final = (4194304, 3846194, 3526975, 3234251, 2965821, 2719670, 2493948, 2286960)
"""2^(22 - b/8)."""


def gaussian() -> NDArray[np.int64]:
    """The integral of 2^31 exp(-x^2 / 2) dx / h from 0 to i h: int64 (257,)."""
    areas, density, ratio = [0], 1 << 31, STEP
    for _ in range(256):
        areas.append(areas[-1] + density)
        density = density * ratio >> 31
        ratio = ratio * STEP >> 31
    return np.array(areas, np.int64)


def below(scale: int, areas: NDArray[np.int64]) -> NDArray[np.int64]:
    """The area between 0 and v + 1/2 of a Gaussian of this scale, for v = 0 .. 127: int64 (128,)."""
    octaves, eighths = divmod(scale, 8)
    x = (2 * np.arange(128, dtype=np.int64) + 1) * EIGHTHS[eighths] >> octaves + 2  # in h / 2^12
    i = np.minimum(x >> 12, 255)
    part = np.minimum(x - (i << 12), 1 << 12)
    area: NDArray[np.int64] = areas[i] + ((areas[i + 1] - areas[i]) * part >> 12)
    return area


@functools.cache
def tables() -> NDArray[np.uint16]:
    """Frequencies that add up to 2^12: uint16 (shape, scale, symbol)."""
    areas = gaussian()
    plain = {scale: below(scale, areas) for scale in range(-2 * SHAPES, SCALES + 2 * SHAPES)}
    half = 16 * int(areas[-1])
    out = np.zeros((SHAPES, SCALES, 256), np.int64)
    for d in range(SHAPES):
        for t in range(SCALES):
            mixed = plain[t - 2 * d] + 4 * plain[t - d] + 6 * plain[t] + 4 * plain[t + d] + plain[t + 2 * d]
            f = ((np.diff(mixed) << K) + half) // (2 * half)
            beyond = 2 * (half - int(mixed[np.count_nonzero(f)]))
            out[d, t, 1:128] = f
            out[d, t, :ESCAPE:-1] = f
            out[d, t, ESCAPE] = max(1, ((beyond << K) + half) // (2 * half))
            out[d, t, 0] = (1 << K) - out[d, t].sum()
    freqs = out.astype(np.uint16)
    freqs.flags.writeable = False
    return freqs


@functools.cache
def code_lengths() -> NDArray[np.float64]:
    """Bits that a symbol costs, its byte included where it escapes: (shape, scale, symbol).

    In multiples of 2^-12, so that sums are exact and every machine chooses the same model.
    """
    freqs = tables().astype(np.float64)
    escaped = K - np.log2(freqs[..., ESCAPE, None]) + ESCAPED_BITS
    lengths = np.where(freqs > 0, K - np.log2(np.maximum(freqs, 1)), escaped)
    lengths[..., ESCAPE] = escaped[..., 0]
    rounded: NDArray[np.float64] = np.rint(lengths * 4096) / 4096
    return rounded


def escaping(freqs: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which symbols of a table (.., 256) have no frequency of their own."""
    lost: NDArray[np.bool_] = freqs == 0
    lost[..., ESCAPE] = True
    return lost
