"""Factorizations and products against NumPy in float64."""

import tracemalloc

import numpy as np
import pytest
import torch

from rarefy.errors import RarefyError
from rarefy.maths import linalg


def correlated(n: int, seed: int = 0) -> np.ndarray:
    """A second moment with strong correlations: a random walk's, plus noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(4 * n, n)).cumsum(1) + random.normal(size=(4 * n, n))
    return x.T @ x / len(x)


@pytest.mark.parametrize("n", [1, 2, 7, 130])
def test_inverse_factor_is_upper_and_makes_the_inverse(n: int) -> None:
    s = correlated(n)
    u = linalg.inverse_factor(s)
    assert u.dtype == np.float64 and np.array_equal(u, np.triu(u)) and (np.diag(u) > 0).all()
    np.testing.assert_allclose(u.T @ u @ s, np.eye(n), atol=1e-7)
    np.testing.assert_allclose(u, np.linalg.cholesky(np.linalg.inv(s)).T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 130, 577])
@pytest.mark.parametrize("overwrite", [False, True])
def test_inverse_factor_in_place_is_the_plain_one(n: int, overwrite: bool) -> None:
    s = linalg.damped(correlated(n), 0.01)
    before = s.copy()
    # By torch, with a copy for each step.
    r = torch.linalg.cholesky(torch.from_numpy(s).flip(0, 1)).flip(0, 1)
    plain = torch.linalg.solve_triangular(r, torch.eye(n, dtype=r.dtype), upper=True).numpy()
    u = linalg.inverse_factor(s, overwrite=overwrite)
    assert np.linalg.norm(u - plain) <= 1e-12 * np.linalg.norm(plain)
    assert np.shares_memory(u, s) == overwrite
    assert overwrite or np.array_equal(s, before)


@pytest.mark.parametrize("n", [1, 2, 7, 131])
def test_a_damped_factor_is_the_factor_of_the_damped(n: int) -> None:
    s = correlated(n)
    u = linalg.damped_factor(s.copy(), 0.01)
    assert u.dtype == np.float32 and u.shape == (n, n) and u.flags.writeable
    assert np.array_equal(u, linalg.inverse_factor(linalg.damped(s, 0.01)).astype(np.float32))


def test_factoring_takes_no_second_copy() -> None:
    s = correlated(600)
    linalg.inverse_factor(s)  # imports
    tracemalloc.start()
    try:
        _, total = linalg.combined([(np.ones(3, np.float32), s.astype(np.float32))])
        whole = total.nbytes
        u = linalg.damped_factor(total, 0.01)
        del total
        now, most = tracemalloc.get_traced_memory()
        assert most < 1.55 * whole  # S itself in float32 beside it
        assert now < 1.05 * u.nbytes == 1.05 * whole / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("s", [np.zeros((2, 2)), np.array([[1.0, 2], [2, 1]]), -np.eye(3), np.diag([1, np.nan, 1])])
def test_what_is_not_positive_definite_is_refused(s: np.ndarray) -> None:
    with pytest.raises(RarefyError, match="not positive definite; raise the damping"):
        linalg.inverse_factor(s)


def test_damping_adds_a_share_of_the_mean_of_what_fired() -> None:
    s = np.diag([1.0, 0, 3]) + np.array([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_allclose(linalg.damped(s, 0.1), [[1.2, 0, 0.5], [0, 2.2, 0], [0.5, 0, 3.2]])
    np.testing.assert_allclose(linalg.damped(np.zeros((2, 2)), 0.5), 1.5 * np.eye(2))


def test_products() -> None:
    random = np.random.default_rng(0)
    a, b, c = (random.normal(size=shape).astype(np.float32) for shape in ((5, 3), (5, 4), (3, 4)))
    expected = c - a.T @ b
    linalg.subtract_product(c, a, b)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-6)
    w, s = random.normal(size=(4, 6)).astype(np.float32), correlated(6).astype(np.float32)
    assert linalg.quadratic(w, s) == pytest.approx(np.trace(w @ s @ w.T), rel=1e-5)
