"""Magnitude pruning: what is left stays as it was."""

import numpy as np
import pytest

from rarefy.codes import Dense, Grid, Sparse
from rarefy.errors import UsageError
from rarefy.evidence import Site
from rarefy.methods.prune.magnitude import Magnitude


def weights(shape, seed: int) -> np.ndarray:
    """Few different sizes, so that ties are everywhere."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def site(code) -> Site:
    return Site("w", "linear", "s", code)


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
