"""Compiled kernels behind entropy/ and packing. `twin` says the same in NumPy, byte for byte."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["crc32", "dequantize_groups"]


def crc32(data: bytes | memoryview) -> int:
    """zlib's CRC-32 of contiguous bytes, several times faster where the processor multiplies without carries."""
    if len(_kernels.paths()) == 1:
        return zlib.crc32(data)
    return _kernels.crc32(np.frombuffer(data, np.uint8))


def dequantize_groups(
    q: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero: NDArray[np.uint8] | NDArray[np.int32] | NDArray[np.float32],
    group: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Grouped integers to floats: (q - zero) * scale, rounded as float32 arithmetic rounds it.

    q: uint8 (out, in). scale, zero: (out, ceil(in / group)); zero is uint8, float32 or an integer below 2^24 in
    magnitude. The last group of a row may be short. out: float32 (out, in) to fill, contiguous; made when absent.

    Raises ValueError where shapes disagree, TypeError where `q` or `out` has another type or layout.
    """
    if out is None:
        out = np.empty(q.shape, np.float32)
    scale = np.ascontiguousarray(scale, np.float32)
    zero = np.ascontiguousarray(zero, np.float32)
    _kernels.dequantize_groups(np.ascontiguousarray(q), scale, zero, group, out)
    return out
