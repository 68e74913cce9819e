"""Files written once by version 1 of the format, and the codes that they hold. Never rewrite a file here.

`python -m golden` in the folder above writes the ones that do not exist yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Dense, Grid, Sparse
from rarefy.codes.dtypes import DTYPES
from rarefy.files import container, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from rarefy.codes import Code

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
}

PARAMETERS = {"fc1.weight": "grid_tensor", "fc1.bias": "dense_f32", "fc2.weight": "sparse_dense", "Größe": "scalar"}


def items() -> list[tuple[str, bytes]]:
    """The records of the golden artifacts."""
    return [(name, (FOLDER / f"{code}.record").read_bytes()) for name, code in PARAMETERS.items()]


def write_missing() -> None:
    for name, make in CODES.items():
        path = FOLDER / f"{name}.record"
        if not path.exists():
            path.write_bytes(record.encode(*make()))
    for name, settings in ARTIFACTS.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).mkdir()
            container.write(FOLDER / name, items(), **settings)


ARTIFACTS: dict[str, dict[str, int]] = {
    "single": {},
    "spread": {"single_bytes": 0},
    "shards": {"single_bytes": 0, "shard_bytes": 900},
}
