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
def rans_encode_given(
    symbols: NDArray[np.uint8],
    given: NDArray[np.uint8],
    freqs: NDArray[np.uint16],
    bits: int,
    lanes: int,
    path: str = "",
) -> bytes: ...
def rans_decode_given(
    data: NDArray[np.uint8],
    given: NDArray[np.uint8],
    freqs: NDArray[np.uint16],
    bits: int,
    lanes: int,
    out: NDArray[np.uint8],
    path: str = "",
) -> None: ...
def escape(
    symbols: NDArray[np.uint8],
    given: NDArray[np.uint8],
    lost: NDArray[np.uint8],
    escape: int,
    out: NDArray[np.uint8],
) -> bytes: ...
def histogram_given(symbols: NDArray[np.uint8], given: NDArray[np.uint8], counts: NDArray[np.int64]) -> None: ...
def huffman_encode(symbols: NDArray[np.uint8], lengths: NDArray[np.uint8]) -> bytes: ...
def huffman_decode(data: NDArray[np.uint8], lengths: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...
def context_encode(symbols: NDArray[np.uint8], depth: int, columns: int) -> bytes: ...
def context_decode(data: NDArray[np.uint8], depth: int, columns: int, out: NDArray[np.uint8]) -> None: ...
def dequantize_groups(
    q: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    group: int,
    out: NDArray[np.float32],
    path: str = "",
) -> None: ...
def dequantize_separable(
    q: NDArray[np.int8] | NDArray[np.int32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    points: NDArray[np.float32],
    out: NDArray[np.float32],
    path: str = "",
) -> None: ...
def round_block(
    weights: NDArray[np.float32],
    within: NDArray[np.float32],
    reciprocal: NDArray[np.float32],
    scales: NDArray[np.float32],
    steps: NDArray[np.float32],
    points: NDArray[np.float32],
    keep: NDArray[np.bool_] | None,
    q: NDArray[np.int32],
    errors: NDArray[np.float32],
    left: NDArray[np.float32] | None,
    path: str = "",
) -> None: ...
def encode_tile(symbols: NDArray[np.uint8]) -> bytes: ...
def encode_tiles(
    symbols: NDArray[np.uint8], step: int, sizes: NDArray[np.int64], checks: NDArray[np.int64]
) -> bytes: ...
def decode_window(
    data: list[NDArray[np.uint8]],
    steps: list[int],
    sizes: list[NDArray[np.int64]],
    checks: list[NDArray[np.int64]],
    rotate: bool,
    elements: NDArray[np.uint8],
    path: str = "",
) -> tuple[int, int] | None: ...
def decode_tile(data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...
def tile_bytes(symbols: NDArray[np.uint8]) -> float: ...
def crc32(data: NDArray[np.uint8], path: str = "") -> int: ...
def difference(
    from_: NDArray[np.uint8],
    base: NDArray[np.uint8],
    width: int,
    exponent: int,
    mantissa: int,
    xored: bool,
    undo: bool,
    out: NDArray[np.uint8],
) -> None: ...
def split_planes(elements: NDArray[np.uint8], rotate: bool, planes: NDArray[np.uint8], path: str = "") -> None: ...
def join_planes(planes: NDArray[np.uint8], rotate: bool, elements: NDArray[np.uint8], path: str = "") -> None: ...

class PackedMatrix:
    def __init__(
        self,
        bits: int,
        inputs: int,
        digits: int,
        group: int,
        binary16: bool,
        q: NDArray[np.uint8],
        table: NDArray[np.uint8] | None,
        steps: NDArray[np.float32] | None,
        scales: NDArray[np.uint16] | None,
        shifts: NDArray[np.int8] | None,
        first: NDArray[np.uint32] | None,
        far: NDArray[np.uint32] | None,
        index: NDArray[np.uint32] | None,
        columns: NDArray[np.float32] | None,
    ) -> None: ...
    def restore(self, start: int, out: NDArray[np.float32], path: str = "") -> None: ...
    def look_up(self, ids: NDArray[np.int64], out: NDArray[np.float32]) -> None: ...

def lay_out(
    q: NDArray[np.int8],
    far: NDArray[np.int32],
    most: int,
    packed: NDArray[np.uint8],
    first: NDArray[np.uint32],
) -> bytes | None: ...
def attend(
    q: int,
    n: int,
    heads: int,
    row: int,
    k: int,
    v: int,
    kept: int,
    count: int,
    size: int,
    scale: float,
    y: int,
    bfloat16: bool,
    path: str = "",
) -> None: ...
def gated(
    gate: PackedMatrix,
    up: PackedMatrix,
    down: PackedMatrix,
    a: float,
    b: float,
    x: int,
    n: int,
    y: int,
    bfloat16: bool,
    path: str = "",
) -> None: ...
def rms_norm(x: int, n: int, width: int, w: int, offset: float, epsilon: float, y: int, bfloat16: bool) -> None: ...
def rotate(x: int, n: int, heads: int, count: int, size: int, cos: int, sin: int, bfloat16: bool) -> None: ...
def multiply(matrices: list[PackedMatrix], x: int, n: int, y: int, bfloat16: bool, path: str = "") -> None: ...
