"""What streams cost, against what information theory allows."""

from __future__ import annotations

from itertools import pairwise
from math import comb, log2

import numpy as np
import pytest

from rarefy.codes import Dense, Grid, Sparse

RNG = np.random.default_rng(0)


def entropy(p: float) -> float:
    return -p * log2(p) - (1 - p) * log2(1 - p)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02])
def test_a_support_costs_its_entropy(density: float) -> None:
    keep = RNG.random(10**6) < density
    bits = next(iter(Sparse(keep, Dense.of(np.zeros(10**6, np.float32))).streams())).bits()
    assert bits / 10**6 <= 1.02 * entropy(density)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 2)])
def test_a_pattern_costs_its_choices(n: int, m: int) -> None:
    rows = np.argsort(RNG.random((10**5, m)), axis=1) < n
    bits = next(iter(Sparse(rows, Dense.of(np.zeros(rows.shape, np.float32))).streams())).bits()
    assert bits <= 1.02 * len(rows) * log2(comb(m, n))


def test_exponents_cost_three_bits() -> None:
    planes = [stream.bits() / 10**5 for stream in Dense.of(RNG.normal(size=10**5).astype(np.float32)).streams()]
    assert planes[0] < 3
    assert planes[1:] == pytest.approx([8, 8, 8], rel=0.01)


def test_zero_points_do_not_blur_symbols() -> None:
    """Symbols are relative to the zero point, so groups with different ones share a table."""
    steps = np.clip(np.rint(RNG.normal(size=(400, 64)) * 1.5), -4, 4).astype(int)
    zero = RNG.integers(4, 12, (400, 1)).astype(np.uint8)
    scale = Dense.of(np.ones((400, 1), np.float32))
    grid = Grid((steps + zero).astype(np.uint8), scale, zero, bits_per_symbol=4, group=64, shape=(400, 64))
    *_, values = grid.streams()
    counts = np.bincount((steps + 4).reshape(-1)) / steps.size
    assert values.name == "values"
    assert values.bits() <= 1.02 * steps.size * -(counts @ np.log2(counts))


def test_masking_a_grid_keeps_paying_for_itself() -> None:
    q = np.clip(np.rint(RNG.normal(size=(100, 1000)) * 2 + 8), 0, 15).astype(np.uint8)
    scale = Dense.of(np.ones((100, 1), np.float32))
    grid = Grid(q, scale, None, bits_per_symbol=4, group=1000, shape=(100, 1000))
    far = np.abs(q.astype(int) - 8)
    costs = [grid.masked(far >= least).bits() for least in range(5)]
    assert all(later <= earlier for earlier, later in pairwise(costs))
