"""Masks against sorting, one entry at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rarefy.maths.masks import largest, largest_in_rows, largest_of_each

sizes = st.tuples(st.integers(1, 5), st.integers(1, 13))


def scores(shape, seed: int) -> np.ndarray:
    """Few different values, so that ties are everywhere."""
    return np.random.default_rng(seed).integers(-1, 4, shape).astype(np.float32)


def literal(score: np.ndarray, dropped: int) -> np.ndarray:
    order = sorted(range(score.size), key=lambda i: (score.reshape(-1)[i], i))
    return np.array([i not in order[:dropped] for i in range(score.size)]).reshape(score.shape)


@given(sizes, st.floats(0, 1), st.integers(0, 99))
def test_the_smallest_go_and_of_equals_the_first(shape, share: float, seed: int) -> None:
    score = scores(shape, seed)
    dropped = round(share * score.size)
    np.testing.assert_array_equal(largest(score, dropped), literal(score, dropped))


@given(sizes, st.floats(0, 1), st.integers(0, 99))
def test_of_every_row_the_smallest_go(shape, sparsity: float, seed: int) -> None:
    score = scores(shape, seed)
    expected = [literal(row, round(sparsity * shape[1])) for row in score]
    np.testing.assert_array_equal(largest_in_rows(score, sparsity), expected)


@given(sizes, st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
def test_n_of_every_m_stay(shape, n: int, more: int, seed: int) -> None:
    m, score = n + more, scores(shape, seed)
    expected = np.zeros(shape, bool)
    for i in range(shape[0]):
        for start in range(0, shape[1], m):
            run = score[i, start : start + m]
            for j in sorted(range(len(run)), key=lambda j: (-run[j], j))[:n]:
                expected[i, start + j] = True
    np.testing.assert_array_equal(largest_of_each(score, n, m), expected)


def test_a_pattern_longer_than_a_row() -> None:
    score = scores((4, 5), 0)
    np.testing.assert_array_equal(largest_of_each(score, 2, 10**12), largest_of_each(score, 2, 5))
