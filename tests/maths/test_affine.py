"""Grids fitted to ranges, against one weight at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.codes.dtypes import dtype_of, from_float32, to_float32
from rarefy.errors import RarefyError
from rarefy.maths import affine

floats = st.floats(-1000, 1000, width=32)


def one(low: float, high: float, bits: int, symmetric: bool, dtype: str) -> tuple[float, float]:
    low, high, levels = np.float32(min(low, 0)), np.float32(max(high, 0)), np.float32(2**bits - 1)
    span = 2 * max(-low, high) if symmetric else high - low
    kind = dtype_of(dtype)
    s = to_float32(from_float32(np.float32(span / levels), kind), kind)
    s = np.float32(s) if s > 0 else np.float32(1)
    return s, (2 ** (bits - 1) if symmetric else min(max(np.rint(-low / s), 0), levels))


@given(floats, floats, st.integers(1, 8), st.booleans(), st.sampled_from(["BF16", "F16", "F32"]))
def test_fit_is_the_definition(a: float, b: float, bits: int, symmetric: bool, dtype: str) -> None:
    low, high = np.float32(min(a, b)), np.float32(max(a, b))
    s, z = affine.fit(np.array([low]), np.array([high]), bits, symmetric=symmetric, scale_dtype=dtype)
    assert (s[0], z[0]) == one(low, high, bits, symmetric, dtype)
    assert s.dtype == z.dtype == np.float32
    assert 0 <= z[0] < 2**bits and z[0] == np.rint(z[0])


@given(st.lists(floats, min_size=1, max_size=9), st.integers(2, 8), st.booleans())
def test_no_weight_is_further_than_the_range_allows(weights: list[float], bits: int, symmetric: bool) -> None:
    w = np.array([weights], np.float32)
    low, high = affine.group_ranges(w, w.shape[1])
    s, z = affine.fit(low, high, bits, symmetric=symmetric, scale_dtype="F32")
    q = affine.to_grid(w, s, z, bits)
    assert ((q >= 0) & (q < 2**bits) & (q == np.rint(q))).all()
    # Rounding, once more where the zero point was rounded too or the symmetric grid lacks its upper end.
    assert (np.abs((q - z) * s - w) <= 1.001 * s + 1e-30).all()
    assert ((q == z) | (w != 0)).all()


def test_to_grid_leaves_the_weights_and_rounds_ties_to_even() -> None:
    w = np.array([[-0.5, 0.5, 1.5, 2.5, 99, -99]], np.float32)
    before = w.copy()
    q = affine.to_grid(w, np.float32(1), np.float32(4), 4)
    np.testing.assert_array_equal(q, [[4, 4, 6, 6, 15, 0]])
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize(("columns", "group"), [(6, 3), (7, 3), (2, 5), (1, 1), (0, 4)])
def test_group_ranges(columns: int, group: int) -> None:
    w = np.random.default_rng(0).normal(size=(3, columns)).astype(np.float32)
    low, high = affine.group_ranges(w, group)
    assert low.shape == high.shape == (3, max(1, -(-columns // group)))
    for row in range(3):
        for start in range(0, columns, group):
            part = w[row, start : start + group]
            assert (low[row, start // group], high[row, start // group]) == (part.min(), part.max())


@pytest.mark.parametrize(("size", "dtype"), [(3e6, "F16"), (3e38, "BF16"), (3e38, "F32")])
def test_a_scale_that_overflows_is_refused(size: float, dtype: str) -> None:
    with pytest.raises(RarefyError, match=f"too large for scales in {dtype}"):
        affine.fit(np.array([-size], np.float32), np.array([size], np.float32), 2, symmetric=True, scale_dtype=dtype)
