"""Products of packed matrices against what their layout says, literally, on every path."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rarefy.native import _kernels

PATHS = _kernels.paths()
TABLE = np.array([-8, -7, -6, -5, -4, -2.90625, -1.8984375, -0.8984375, 0, 1, 2, 3, 4, 5, 6, 7], np.float32)


def packed(rows: int, columns: int, rng: np.random.Generator, bits: int = 4, group: int = 0, far: int = 0) -> Any:
    """Of a matrix (rows, columns) the arrays, laid out as `products.hpp` says, and what it is, float64."""
    width = columns + -columns % 64
    arrays: dict[str, Any] = dict.fromkeys(("table", "steps", "scales", "shifts", "first", "far", "index", "columns"))
    if bits == 8:
        q = np.zeros((rows, width), np.int8)
        q[:, :columns] = rng.integers(-128, 128, (rows, columns))
        w, held = q[:, :columns].astype(np.float64), q.view(np.uint8)
    else:
        k = rng.integers(0, 16, (rows, width)).astype(np.uint8)
        held = np.zeros((rows, width // 2), np.uint8)
        for column in range(width):
            block, within = divmod(column, 64)
            high, c = divmod(within, 32)
            byte = 16 * (c % 8 // 4) + 4 * (c // 8) + c % 4
            held[:, 32 * block + byte] |= k[:, column] << (4 * high)
        bits16 = (TABLE.view(np.uint32) >> 16).astype(np.uint16)
        arrays["table"] = np.concatenate([bits16 & 255, bits16 >> 8]).astype(np.uint8)
        w = TABLE.astype(np.float64)[k][:, :columns]
    if group:
        shape = rows, -(-width // group)
        scale, shift = rng.normal(0, 1, shape).astype(np.float16), rng.integers(-8, 9, shape).astype(np.int8)
        scale[0, 0] = 3e-6  # below binary16's normal numbers
        arrays |= {"scales": scale.view(np.uint16), "shifts": shift}
        spread, moved = (np.repeat(each, group, 1)[:, :columns].astype(np.float64) for each in (scale, shift))
        w = (w + moved) * spread
    else:
        arrays["steps"] = rng.uniform(0.5, 2, rows).astype(np.float32)
    if far:
        chunks = [[] for _ in range(-(-rows // 16))]
        for _ in range(far):
            row, column, value = rng.integers(rows), rng.integers(columns), rng.integers(-127, 128)
            chunks[row // 16].append(int(column) << 16 | int(row) % 16 << 8 | int(value) & 255)
            w[row, column] += value
        arrays["far"] = np.array([entry for chunk in chunks for entry in sorted(chunk)], np.uint32)
        arrays["first"] = np.cumsum([0, *map(len, chunks)]).astype(np.uint32)
    if arrays["steps"] is not None:
        w *= arrays["steps"][:, None]
    return (bits, columns, columns, group, True, held), arrays, w


def product(matrix: Any, x: np.ndarray, rows: int, path: str = "") -> np.ndarray:
    y = np.empty((len(x), rows), x.dtype)
    _kernels.multiply([matrix], x.ctypes.data, len(x), y.ctypes.data, x.dtype == np.uint16, path)
    return y


SHAPES = [(16, 64, 4, 0, 0), (100, 576, 4, 0, 900), (33, 100, 4, 0, 40), (7, 130, 8, 0, 0), (200, 640, 8, 0, 0)]
SHAPES += [(48, 256, 4, 32, 0), (40, 200, 4, 96, 0), (20, 320, 4, 64, 0), (300, 512, 4, 0, 3000)]


@pytest.mark.parametrize(("rows", "columns", "bits", "group", "far"), SHAPES)
def test_is_the_product(rows: int, columns: int, bits: int, group: int, far: int) -> None:
    rng = np.random.default_rng(rows)
    given, arrays, w = packed(rows, columns, rng, bits, group, far)
    matrix = _kernels.PackedMatrix(*given, **arrays)
    for vectors in (1, 2, 8):
        x = rng.normal(0, 1, (vectors, columns)).astype(np.float32)
        found = {path: product(matrix, x, rows, path) for path in PATHS}
        for path in PATHS:
            assert np.array_equal(found[path], found["scalar"]), path
        scale = np.abs(x.astype(np.float64)) @ np.abs(w).T  # with offsets, sums cancel
        assert np.all(np.abs(found["scalar"] - x @ w.T) <= 1e-5 * (scale + columns * np.abs(w).max()))
    for path in PATHS:
        assert np.array_equal(product(matrix, x[1:2], rows, path), found["scalar"][1:2]), path
        assert np.array_equal(product(matrix, x[:7], rows, path), found["scalar"][:7]), path
    for path in PATHS:
        restored = np.empty((rows - 2, columns), np.float32)  # from within rows that share their entries
        matrix.restore(2, restored, path)
        assert np.allclose(restored, w[2:], rtol=1e-6, atol=1e-6 * np.abs(w).max())
    looked_up = np.empty((3, columns), np.float32)
    matrix.look_up(np.array([rows - 1, 2, 2]), looked_up)
    assert np.array_equal(looked_up, restored[[-1, 0, 0]])


def test_prepares_inputs() -> None:
    """A column reads the input that it names, and scales it; digits are two columns of one input."""
    rng = np.random.default_rng(0)
    (bits, _, digits, group, _, held), arrays, w = packed(20, 70, rng, 8)
    index, columns = rng.integers(0, 50, digits).astype(np.uint32), rng.uniform(0.5, 2, digits).astype(np.float32)
    matrix = _kernels.PackedMatrix(
        bits, 50, digits, group, False, held, **{**arrays, "index": index, "columns": columns}
    )
    x = rng.normal(0, 1, (2, 50)).astype(np.float32)
    assert np.allclose(product(matrix, x, 20), (x[:, index] * columns) @ w.T, rtol=1e-4, atol=1e-2)


def test_bfloat16_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    given, arrays, _ = packed(40, 128, rng)
    matrix = _kernels.PackedMatrix(*given, **arrays)
    x = (rng.normal(0, 1, (2, 128)).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    x[1, 5] = np.nan
    y = product(matrix, x, 40)
    bits = y.view(np.uint32)
    expected = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    found = product(matrix, (x.view(np.uint32) >> 16).astype(np.uint16), 40)
    assert np.array_equal(found[0], expected[0])
    assert np.isnan((found[1].astype(np.uint32) << 16).view(np.float32)).all()


def test_threads_change_nothing() -> None:
    """Large enough to be shared; torch's threads are the runtime's."""
    import torch

    rng = np.random.default_rng(0)
    given, arrays, _ = packed(1000, 320, rng, far=5000)
    matrix = _kernels.PackedMatrix(*given, **arrays)
    before = torch.get_num_threads()
    for vectors in (1, 2):
        x, found = rng.normal(0, 1, (vectors, 320)).astype(np.float32), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(product(matrix, x, 1000))
        finally:
            torch.set_num_threads(before)
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bits": 3}, "4 or 8 bits"),
        ({"inputs": 63}, "a column has no input"),
        ({"digits": 65}, "shorter than its columns"),
        ({"table": None}, "a table of 32 bytes"),
        ({"steps": np.ones(3, np.float32)}, "a row has no step"),
        ({"scales": np.ones((16, 2), np.uint16), "group": 16}, "multiple of 32"),
        ({"scales": np.ones((16, 1), np.uint16), "group": 32}, "not \\(rows, groups\\)"),
        ({"shifts": np.ones((16, 1), np.int8)}, "not \\(rows, groups\\)"),
        ({"first": np.array([0, 1], np.uint32)}, "entries have no rows"),
        ({"first": np.array([0, 1], np.uint32), "far": np.array([64 << 16], np.uint32)}, "outside"),
        ({"first": np.array([0, 1], np.uint32), "far": np.array([16 << 8], np.uint32)}, "outside"),
        ({"first": np.array([0, 2], np.uint32), "far": np.array([1], np.uint32)}, "in no row"),
        ({"first": np.array([0, 1, 1], np.uint32), "far": np.array([1], np.uint32)}, "rows overlap"),
        ({"index": np.full(64, 64, np.uint32)}, "an input lies outside"),
        ({"columns": np.ones(63, np.float32)}, "a column has no scale"),
        ({"q": np.zeros((16, 31), np.uint8)}, "no multiple of 64"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], why: str) -> None:
    (bits, inputs, digits, group, _, q), arrays, _ = packed(16, 64, np.random.default_rng(0))
    given = {"bits": bits, "inputs": inputs, "digits": digits, "group": group, "binary16": False, "q": q, **arrays}
    _kernels.PackedMatrix(**given)
    with pytest.raises(ValueError, match=why):
        _kernels.PackedMatrix(**{**given, **change})


def test_refuses_rows_that_there_are_not() -> None:
    given, arrays, _ = packed(16, 64, np.random.default_rng(0))
    matrix = _kernels.PackedMatrix(*given, **arrays)
    with pytest.raises(IndexError, match="row 16 of 16"):
        matrix.look_up(np.array([0, 16]), np.empty((2, 64), np.float32))
    with pytest.raises(IndexError, match="row -1 of 16"):
        matrix.look_up(np.array([-1]), np.empty((1, 64), np.float32))
    with pytest.raises(ValueError, match="rows lie outside"):
        matrix.restore(10, np.empty((7, 64), np.float32))


def laid_out(q: np.ndarray, most: int = 1 << 20) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """packed, first, far"""
    rows, columns = q.shape
    far = np.abs(q) > 127
    near = np.where(far, -128, q).astype(np.int8)
    packed, first = np.zeros((rows, -(-columns // 64) * 32), np.uint8), np.zeros(-(-rows // 16) + 1, np.uint32)
    entries = _kernels.lay_out(near, q[far].astype(np.int32), most, packed, first)
    return None if entries is None else (packed, first, np.frombuffer(entries, np.uint32))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 64), (33, 100), (50, 576)])
@pytest.mark.parametrize("spread", [1, 4, 60, 3000])
def test_lays_out_integers(rows: int, columns: int, spread: float) -> None:
    q = np.rint(np.random.default_rng(rows).normal(0, spread, (rows, columns))).astype(np.int64)
    q[0, 0] = 127 * 3
    found = laid_out(q)
    assert found is not None
    packed, first, far = found
    assert first[-1] == len(far) == sum(-(-abs(n) // 127) for n in q[(q < -8) | (q > 7)].tolist())
    for begin, end in itertools.pairwise(first):
        assert np.all(np.diff((far[begin:end] >> 16).astype(int)) >= 0)
    arrays: dict[str, Any] = dict.fromkeys(("steps", "scales", "shifts", "index", "columns"))
    bits16 = (np.arange(-8, 8, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    arrays["table"] = np.concatenate([bits16 & 255, bits16 >> 8]).astype(np.uint8)
    matrix = _kernels.PackedMatrix(4, columns, columns, 0, False, packed, first=first, far=far, **arrays)
    restored = np.empty((rows, columns), np.float32)
    matrix.restore(0, restored)
    assert np.array_equal(restored, q)


def test_lays_out_no_more_than_it_may() -> None:
    q = np.zeros((4, 64), np.int64)
    q[2, 3], q[3, 5] = 300, -9
    assert laid_out(q, 4) is not None and laid_out(q, 3) is None
    q[0, 0] = -(1 << 31)
    assert laid_out(q) is None
    packed, first = np.zeros((4, 32), np.uint8), np.zeros(2, np.uint32)
    for near, far in ((np.full((4, 64), -128, np.int8), [300]), (np.zeros((4, 64), np.int8), [300])):
        with pytest.raises(ValueError, match="a far integer"):
            _kernels.lay_out(near, np.array(far, np.int32), 1 << 20, packed, first)
    with pytest.raises(ValueError, match="packed is not"):
        _kernels.lay_out(np.zeros((4, 65), np.int8), np.zeros(0, np.int32), 9, packed, first)
    with pytest.raises(ValueError, match="another number of rows"):
        _kernels.lay_out(np.zeros((4, 64), np.int8), np.zeros(0, np.int32), 9, packed, first[:1])
