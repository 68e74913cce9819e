"""Files written once by version 1 of the format, and the codes that they hold. Never rewrite a file here.

`python -m golden` in the folder above writes the ones that do not exist yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Codebook, Dense, Grid, Sparse
from rarefy.codes.difference import ORDER, RUN, XOR, Difference
from rarefy.codes.dtypes import DTYPES, dtype_of
from rarefy.codes.factored import Factored
from rarefy.codes.positions import Positions
from rarefy.codes.scaled import Scaled
from rarefy.codes.separable import Separable
from rarefy.codes.summed import Sum
from rarefy.codes.transposed import Transposed
from rarefy.entropy import coder
from rarefy.files import container, record
from rarefy.files.head import Tiles, write_head
from rarefy.native import crc32

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rarefy.codes import Code
    from rarefy.codes.dtypes import DType

FOLDER = Path(__file__).parent
NUMBERS = {name: dtype.number for name, dtype in DTYPES.items()}


def numbers(count: int, seed: int = 1) -> np.ndarray:
    """Bell-shaped integers around zero, -60 to 60, from integer arithmetic alone."""
    x = (np.arange(4 * count, dtype=np.uint64) + np.uint64(seed * 1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    return (((x >> np.uint64(40)) % np.uint64(31)).astype(np.int64).reshape(count, 4) - 15).sum(1)


def real(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return (numbers(int(np.prod(shape)), seed) / np.float32(64)).astype(np.float32).reshape(shape)


def grid(shape: tuple[int, ...], bits: int, group: int, scales: tuple[int, int], affine: bool, dtype: str) -> Grid:
    rows, columns = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else (1, shape[0])
    top = (1 << bits) - 1
    q = np.clip(numbers(rows * columns) // max(1, 64 >> (bits - 1)) + (1 << (bits - 1)), 0, top).astype(np.uint8)
    scale = Dense.of(np.abs(real(scales, 2)) + np.float32(0.125), dtype)
    zero = (np.abs(numbers(scales[0] * scales[1], 3)) & top).astype(np.uint8).reshape(scales) if affine else None
    return Grid(q.reshape(rows, columns), scale, zero, bits_per_symbol=bits, group=group, shape=shape)


def keep(shape: tuple[int, ...]) -> np.ndarray:
    return np.abs(numbers(int(np.prod(shape)), 4)).reshape(shape) > 12


def dense(raw: np.ndarray[Any, Any], dtype: DType) -> Dense:
    """Bits of elements as they are."""
    return Dense(lambda: raw, raw.shape, dtype)


def bits(name: str, shape: tuple[int, ...], seed: int = 6) -> Dense:
    """Any bits of a type."""
    dtype = dtype_of(name)
    octets = (numbers(int(np.prod(shape)) * dtype.size, seed) * 37 % (2 if name == "BOOL" else 256)).astype(np.uint8)
    return dense(octets.view(dtype.raw).reshape(shape), dtype)


def codebook(shape: tuple[int, ...], steps: int, dtype: str, order: int) -> Codebook:
    """Multiples of `steps` among `real` numbers."""
    near = numbers(int(np.prod(shape)), 9) // steps
    centroids = np.arange(near.min(), near.max() + 1).astype(np.float32) * np.float32(steps / 64)
    index = (near - near.min()).astype(np.uint8).reshape(shape)
    return Codebook(Dense.of(centroids, dtype), index, order=order)


def halves() -> Dense:
    """The first half of few values, the second of many, noise at the end: tables that differ, and tiles without one."""
    noise = (np.arange(1500, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(45)) % np.uint64(256)
    both = [numbers(1500) // 16, numbers(1500, 2), noise.astype(np.int64) - 128]
    return Dense.of(np.concatenate(both).astype(np.int8), "I8")


def separable(shape: tuple[int, ...]) -> Separable:
    """Rows and columns of every spread, a few integers beyond a byte."""
    out, columns = shape[0], int(np.prod(shape[1:]))
    rows, across = np.arange(out, dtype=np.int16) * 7 - 40, np.arange(columns, dtype=np.int16) * 3 - 200
    q = numbers(out * columns, 5).reshape(out, columns) // (1 + np.arange(columns) % 40)
    q[numbers(q.size, 6).reshape(q.shape) > 40] *= 9
    points = np.array([0.9375, 1.9375, 3], np.float32)
    return Separable(q.astype(np.int32), rows, across, points, shape=shape)


def factored(shape: tuple[int, ...], rank: int) -> Factored:
    """One factor dense, one a grid."""
    out, columns = shape[0], int(np.prod(shape[1:]))
    b = grid((rank, columns), 6, columns, (rank, 1), False, "BF16")
    return Factored(Dense.of(real((out, rank), 10), "BF16"), b, shape=shape)


def scaled_twice(shape: tuple[int, ...], size: int) -> Scaled:
    """Blocks of a row, the last one short, by scales that are integers."""
    scales = shape[0] * -(-int(np.prod(shape[1:])) // size)
    return Scaled(grid((scales,), 8, 32, (1, -(-scales // 32)), True, "F32"), codebook(shape, 8, "F32", 0), group=size)


def scaled_columns(shape: tuple[int, ...]) -> Scaled:
    """A scale a column."""
    columns = int(np.prod(shape[1:]))
    return Scaled(
        Dense.of(real((columns,), 11), "BF16"), grid(shape, 4, 32, (shape[0], -(-columns // 32)), True, "F16"), group=1
    )


def checkpoints(name: str, count: int, moved: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], DType]:
    """Elements, those of the base, most of them the same, and their type."""
    dtype = dtype_of(name)
    base = (real((count,), 7) * np.float32(1.7)).astype(np.float32).view(np.uint32) >> np.uint32(32 - 8 * dtype.size)
    base = base.astype(f"<u{dtype.size}")
    steps = np.where(np.arange(count) % moved, 0, numbers(count, 8)).astype(base.dtype)
    return (base + steps).view(dtype.raw), base.view(dtype.raw), dtype


CODES: dict[str, Callable[[], tuple[Code, str]]] = {
    "scalar": lambda: (Dense.of(np.array(-1.5, np.float32)), "F32"),
    "empty": lambda: (Dense.of(np.zeros((0, 3), np.float32), "BF16"), "F32"),
    "dense_f32": lambda: (Dense.of(real((5, 7))), "F32"),
    "dense_bf16": lambda: (Dense.of(real((30, 40)), "BF16"), "BF16"),
    "dense_f16": lambda: (Dense.of(real((2, 3, 2, 2)), "F16"), "F32"),
    "dense_i32": lambda: (Dense.of(numbers(9).astype(np.int32), "I32"), "I32"),
    "tiles": lambda: (Dense.of(np.zeros((3, 1_000_000), np.int8), "I8"), "I8"),
    "grid_affine": lambda: (grid((24, 100), 4, 32, (24, 4), True, "BF16"), "BF16"),
    "grid_symmetric": lambda: (grid((24, 6, 3, 3), 3, 54, (24, 1), False, "F16"), "F32"),
    "grid_tensor": lambda: (grid((16, 50), 8, 50, (1, 1), False, "F32"), "F32"),
    "sparse_dense": lambda: (Sparse(keep((20, 31)), Dense.of(real((20, 31)), "BF16")), "F32"),
    "sparse_grid": lambda: (Sparse(keep((24, 100)), grid((24, 100), 4, 64, (24, 2), True, "BF16")), "BF16"),
    "sparse_sparse": lambda: (Sparse(keep((9, 9)), Sparse(real((9, 9), 5) > 0, Dense.of(real((9, 9))))), "F32"),
    "dense_f64": lambda: (Dense.of(real((5, 3)).astype(np.float64) / 3, "F64"), "F64"),
    "dense_i64": lambda: (bits("I64", (11,)), "I64"),
    "dense_u16": lambda: (bits("U16", (2, 9)), "U16"),
    "dense_bool": lambda: (bits("BOOL", (70,)), "BOOL"),
    "dense_f8_e4m3": lambda: (dense(np.arange(256, dtype=np.uint8), dtype_of("F8_E4M3")), "F8_E4M3"),
    "dense_f8_e5m2": lambda: (dense(np.arange(256, dtype=np.uint8), dtype_of("F8_E5M2")), "F8_E5M2"),
    "codebook": lambda: (codebook((20, 31), 3, "F32", 0), "F32"),
    "codebook_f16": lambda: (codebook((12, 5, 3, 3), 1, "F16", 1), "F32"),
    "sparse_codebook": lambda: (Sparse(keep((12, 5, 3, 3)), codebook((12, 5, 3, 3), 2, "BF16", 1)), "F32"),
    "huffman_grid": lambda: (grid((24, 100), 4, 32, (24, 4), True, "BF16"), "BF16"),
    "huffman_constant": lambda: (Dense.of(np.zeros((50, 60), np.int8), "I8"), "I8"),
    "huffman_tiles": lambda: (Dense.of(real((30, 40)), "BF16"), "BF16"),
    "context_grid": lambda: (grid((24, 6, 3, 3), 3, 54, (24, 1), False, "F16"), "F32"),
    "context_sparse": lambda: (Sparse(keep((24, 100)), grid((24, 100), 4, 64, (24, 2), True, "BF16")), "BF16"),
    "context_vector": lambda: (Dense.of(real((300,)), "BF16"), "BF16"),
    "context_tiles": lambda: (grid((40, 50), 4, 50, (40, 1), False, "F16"), "F32"),
    "rans_tiles": lambda: (halves(), "I8"),
    "parametric_grid": lambda: (grid((24, 100), 4, 32, (24, 4), True, "BF16"), "BF16"),
    "parametric_escapes": lambda: (
        Dense.of((numbers(900) // 5 * (numbers(900, 9) // 24 * 8 + 1)).astype(np.int8), "I8"),
        "I8",
    ),
    "separable": lambda: (separable((20, 30)), "F32"),
    "separable_sparse": lambda: (Sparse(keep((12, 4, 3, 3)), separable((12, 4, 3, 3))), "BF16"),
    "factored": lambda: (factored((20, 31), 5), "F32"),
    "factored_sparse": lambda: (Sparse(keep((12, 5, 3, 3)), factored((12, 5, 3, 3), 3)), "BF16"),
    "sum": lambda: (Sum(grid((24, 100), 3, 50, (24, 2), True, "BF16"), factored((24, 100), 2)), "BF16"),
    "sum_sparse": lambda: (
        Sparse(keep((20, 31)), Sum(Sparse(real((20, 31), 5) > 0, Dense.of(real((20, 31)))), factored((20, 31), 4))),
        "F32",
    ),
    "scaled_twice": lambda: (scaled_twice((20, 31), 8), "F32"),
    "scaled_columns": lambda: (scaled_columns((24, 6, 3, 3)), "BF16"),
    "transposed": lambda: (Transposed(Sparse(keep((20, 31)), grid((20, 31), 4, 8, (20, 4), False, "F16"))), "F32"),
    "positions": lambda: (Positions(numbers(3000, 4) > 39, codebook((3000,), 2, "BF16", 0)), "F32"),
    "positions_grid": lambda: (
        Positions(keep((12, 5, 3, 3)), grid((12, 5, 3, 3), 4, 9, (12, 5), False, "F16")),
        "BF16",
    ),
    "scaled_sparse": lambda: (Sparse(keep((20, 31)), scaled_twice((20, 31), 16)), "F32"),
}

CODERS = {
    **dict.fromkeys(("huffman_grid", "huffman_constant", "huffman_tiles", "positions"), "huffman"),
    **dict.fromkeys(("codebook_f16", "context_grid", "context_sparse", "context_vector", "context_tiles"), "context"),
    "rans_tiles": "rans_tiles",
    **dict.fromkeys(("parametric_grid", "parametric_escapes", "separable", "separable_sparse"), "parametric"),
}
"""What a record is written with, rANS unless it is named."""

TILES = {"huffman_tiles": 500, "context_tiles": 700, "rans_tiles": 1500}
"""Symbols in a tile, where a writer would have made larger ones."""

DIFFERENCES: dict[str, Callable[[], tuple[Any, Any, DType, int]]] = {
    "difference_xor": lambda: (*checkpoints("BF16", 700, 3), XOR),
    "difference_order": lambda: (*checkpoints("F32", 500, 2), ORDER),
    "difference_integers": lambda: (*checkpoints("I16", 300, 2), ORDER),
    "difference_runs": lambda: (*checkpoints("F16", RUN + 5000, 997), ORDER),
}
"""Elements, those of the base, their type, and the way of the difference."""

PARAMETERS = {"fc1.weight": "grid_tensor", "fc1.bias": "dense_f32", "fc2.weight": "sparse_dense", "Größe": "scalar"}


def items() -> list[tuple[str, bytes]]:
    """The records of the golden artifacts."""
    return [(name, (FOLDER / f"{code}.record").read_bytes()) for name, code in PARAMETERS.items()]


def written(name: str) -> bytes:
    """A golden record as it is made now."""
    if name in DIFFERENCES:
        values, base, dtype, way = DIFFERENCES[name]()
        return record.encode(Difference.of(values, base, dtype, way), dtype.name, "rans")
    code, dtype = CODES[name]()
    if name not in TILES:
        return record.encode(code, dtype, CODERS.get(name, "rans"))
    by, step, streams, all_tiles = coder(CODERS[name]), TILES[name], [], []
    for stream in code.streams():
        flat, model = stream.symbols.reshape(-1), by.fit(stream.symbols)
        tiles = [by.encode(flat[i : i + step], model) for i in range(0, flat.size, step)]
        checks = tuple(crc32(tile) for tile in tiles)
        streams.append(Tiles(by.ID, flat.size, model, min(step, flat.size), tuple(map(len, tiles)), checks))
        all_tiles += tiles
    return write_head(code.shape, NUMBERS[dtype], code.node(), streams) + b"".join(all_tiles)


def write_missing() -> None:
    for name in (*CODES, *DIFFERENCES):
        path = FOLDER / f"{name}.record"
        if not path.exists():
            path.write_bytes(written(name))
    for name, settings in ARTIFACTS.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).mkdir()
            container.write(FOLDER / name, items(), **settings)


ARTIFACTS: dict[str, dict[str, int]] = {
    "compact": {},
    "single": {},
    "spread": {"single_bytes": 0},
    "shards": {"single_bytes": 0, "shard_bytes": 900},
}
