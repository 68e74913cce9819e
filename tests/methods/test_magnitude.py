"""Magnitude pruning against sorting, one weight at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.codes import Dense, Grid, Sparse
from rarefy.errors import UsageError
from rarefy.evidence import Site
from rarefy.methods.prune.magnitude import Magnitude, largest, largest_of_each

sizes = st.tuples(st.integers(1, 5), st.integers(1, 13))


def weights(shape, seed: int) -> np.ndarray:
    """Few different sizes, so that ties are everywhere."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def site(code) -> Site:
    return Site("w", "linear", "s", code)


@given(sizes, st.floats(0, 1), st.integers(0, 99))
def test_the_smallest_go_and_of_equals_the_first(shape, sparsity: float, seed: int) -> None:
    size = np.abs(weights(shape, seed))
    flat = [(float(value), i) for i, value in enumerate(size.reshape(-1))]
    dropped = {i for _, i in sorted(flat)[: round(sparsity * size.size)]}
    expected = np.array([i not in dropped for i in range(size.size)]).reshape(shape)
    np.testing.assert_array_equal(largest(size, sparsity), expected)


@given(sizes, st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
def test_n_of_every_m_stay(shape, n: int, more: int, seed: int) -> None:
    m, size = n + more, np.abs(weights(shape, seed))
    expected = np.zeros(shape, bool)
    for i in range(shape[0]):
        for start in range(0, shape[1], m):
            run = size[i, start : start + m]
            for j in sorted(range(len(run)), key=lambda j: (-run[j], j))[:n]:
                expected[i, start + j] = True
    np.testing.assert_array_equal(largest_of_each(size, n, m), expected)


def test_a_pattern_longer_than_a_row() -> None:
    size = np.abs(weights((4, 5), 0))
    np.testing.assert_array_equal(largest_of_each(size, 2, 10**12), largest_of_each(size, 2, 5))


def test_none_and_all() -> None:
    w = weights((4, 5), 0) + np.float32(0.5)
    np.testing.assert_array_equal(Magnitude(sparsity=0).encode(site(Dense.of(w))).decode(), w)
    assert not Magnitude(sparsity=1).encode(site(Dense.of(w))).decode().any()


def test_what_is_left_is_bit_for_bit_what_it_was() -> None:
    w = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    code = Magnitude(sparsity=0.5).encode(site(Dense.of(w, "BF16")))
    assert isinstance(code, Sparse) and code.shape == (3, 2, 4)
    made, before = code.decode(), Dense.of(w, "BF16").decode()
    np.testing.assert_array_equal(made[made != 0], before[made != 0])
    assert (made != 0).sum() == 12


def test_of_a_quantized_weight_the_integers_stay() -> None:
    q = np.random.default_rng(0).integers(0, 16, (4, 8)).astype(np.uint8)
    zero = np.array([[3], [8], [0], [15]], np.uint8)
    grid = Grid(q, Dense.of(np.ones((4, 1), np.float32)), zero, bits_per_symbol=4, group=8, shape=(4, 8))
    code = Magnitude(n=2, m=4).encode(site(grid))
    assert isinstance(code, Grid)
    kept = code.decode() != 0
    np.testing.assert_array_equal(code.q[kept], q[kept])
    assert (np.broadcast_to(zero, q.shape)[~kept] == code.q[~kept]).all()
    assert (kept.reshape(4, 2, 4).sum(2) <= 2).all()


def test_pruning_again_prunes_no_more() -> None:
    w = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    once = Magnitude(sparsity=0.4).encode(site(Dense.of(w)))
    twice = Magnitude(sparsity=0.4).encode(site(once))
    np.testing.assert_array_equal(once.decode(), twice.decode())
    more = Magnitude(sparsity=0.7).encode(site(once)).decode()
    assert (more == 0).sum() == 42 and not more[once.decode() == 0].any()


@pytest.mark.parametrize("given", [{"n": 2}, {"m": 4}, {"n": 5, "m": 4}, {"n": -1, "m": 4}, {"sparsity": 1.1}])
def test_wrong_settings(given: dict) -> None:
    with pytest.raises(UsageError, match="prune.magnitude"):
        Magnitude(**given)
