"""The compiled kernels. `path` forces an instruction set ("scalar", "avx2", "avx512"); empty takes the best."""

import numpy as np
from numpy.typing import NDArray

def paths() -> list[str]: ...
def histogram(symbols: NDArray[np.uint8], out: NDArray[np.int64]) -> None: ...
def quantize_counts(counts: NDArray[np.int64], bits: int, out: NDArray[np.uint16]) -> None: ...
def rans_encode(
    symbols: NDArray[np.uint8], freqs: NDArray[np.uint16], bits: int, lanes: int, path: str = ""
) -> bytes: ...
def rans_decode(
    data: NDArray[np.uint8], freqs: NDArray[np.uint16], bits: int, lanes: int, out: NDArray[np.uint8], path: str = ""
) -> None: ...
def dequantize_groups(
    q: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    group: int,
    out: NDArray[np.float32],
    path: str = "",
) -> None: ...
