"""Shapes at the edge: scalars, no elements, one row, short last groups."""

from __future__ import annotations

import numpy as np
import pytest

from rarefy.codes import Dense, Grid
from rarefy.codes.base import matrix
from rarefy.errors import FormatError


@pytest.mark.parametrize(
    ("shape", "view"),
    [((), (1, 1)), ((5,), (1, 5)), ((0,), (1, 0)), ((2, 3), (2, 3)), ((4, 3, 2, 2), (4, 12)), ((3, 0, 2), (3, 0))],
)
def test_matrix_view(shape: tuple[int, ...], view: tuple[int, int]) -> None:
    assert matrix(shape) == view


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 2)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "I64"])
def test_dense_of_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    code = Dense.of(np.ones(shape, np.float32), dtype)
    assert code.shape == code.raw().shape == code.decode().shape == shape
    masked = code.masked(np.zeros(shape, bool))
    assert masked.decode().shape == shape
    assert not masked.decode().any()
    again = code.with_free(code.free())
    assert again.raw().shape == shape


def test_dense_keeps_its_own_copy() -> None:
    values = np.ones(3, np.float32)
    code = Dense.of(values)
    values[:] = 2
    assert code.decode().tolist() == [1, 1, 1]


def test_a_short_last_group() -> None:
    q = np.full((2, 5), 9, np.uint8)
    scale = Dense.of(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    grid = Grid(q, scale, None, bits_per_symbol=4, group=2, shape=(2, 5))
    assert grid.decode().tolist() == [[1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]


def test_one_scale_for_a_convolution() -> None:
    q = np.arange(16, dtype=np.uint8).reshape(2, 8)
    zero = np.array([[3]], np.uint8)
    grid = Grid(q, Dense.of(np.array([[0.5]], np.float32)), zero, bits_per_symbol=4, group=8, shape=(2, 2, 2, 2))
    np.testing.assert_array_equal(grid.decode().reshape(-1), (np.arange(16) - 3) * np.float32(0.5))
    assert grid.support().sum() == 15


def test_unknown_types_are_refused() -> None:
    with pytest.raises(FormatError, match="not supported"):
        Dense.of(np.zeros(1), "F4")
