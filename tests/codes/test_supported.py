"""Zeros on a grid stand apart from the values where that is smaller."""

import numpy as np
import pytest

from rarefy.codes import Dense, Grid, Sparse
from rarefy.codes.sparse import supported
from rarefy.maths.masks import largest_of_each

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("pattern", [True, False])
def test_a_pattern_has_a_support_and_unstructured_zeros_have_none(pattern: bool) -> None:
    q = np.clip(np.rint(RANDOM.normal(size=(200, 1000)) * 2.5 + 8), 0, 15).astype(np.uint8)
    grid = Grid(q, Dense.of(np.ones((200, 1), np.float32)), None, bits_per_symbol=4, group=1000, shape=q.shape)
    size = np.abs(q - 8.0)
    keep = largest_of_each(size.astype(np.float32), 2, 4) if pattern else size > np.median(size)
    made, masked = supported(grid, keep), grid.masked(keep)
    np.testing.assert_array_equal(made.decode(), masked.decode())
    assert isinstance(made, Sparse if pattern else Grid)
    if pattern:
        assert made.bits() < 0.95 * masked.bits()
