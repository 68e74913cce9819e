"""Wanda against its two lines, one row at a time."""

import numpy as np
import pytest
from methods.layers import layer, site, tiles

from rarefy.codes import Dense, Grid, Sparse
from rarefy.errors import UsageError
from rarefy.evidence import Moment, SecondMoment, Site
from rarefy.methods.prune.wanda import Wanda


def literal(w: np.ndarray, x: np.ndarray, sparsity: float, n: int, m: int) -> np.ndarray:
    """Sun et al. 2024, algorithm 1 on inputs x (tokens, in): |W| ||X||_2, compared within each row."""
    norm = np.array([np.sqrt(np.sum(np.square(x[:, i].astype(np.float64)))) for i in range(x.shape[1])])
    pruned = w.copy()
    for row in pruned:
        metric = np.abs(row) * norm
        if m:
            for start in range(0, len(row), m):
                run = range(start, min(start + m, len(row)))
                row[sorted(run, key=lambda i: metric[i])[: max(len(run) - n, 0)]] = 0
        else:
            row[sorted(range(len(row)), key=lambda i: metric[i])[: round(sparsity * len(row))]] = 0
    return pruned


@pytest.mark.parametrize("given", [{"sparsity": 0.5}, {"sparsity": 0.37}, {"n": 2, "m": 4}, {"n": 1, "m": 7}])
@pytest.mark.parametrize("columns", [96, 90, 1])
def test_zeros_are_the_literal_ones(columns: int, given: dict) -> None:
    w, moment, x = layer(columns=columns)
    method = Wanda(**given)
    made = method.encode(site(w, moment)).decode()
    np.testing.assert_array_equal(made, literal(w, x, method.sparsity, method.n, method.m))


def test_every_row_and_every_run_has_its_share() -> None:
    w, moment, _ = layer(columns=90)
    assert (np.count_nonzero(Wanda(sparsity=0.7).encode(site(w, moment)).decode(), axis=1) == 27).all()
    kept = tiles(Wanda(n=2, m=4).encode(site(w, moment)).decode(), 4)
    assert (kept == 2).all()  # 90 = 22 x 4 + 2: the short last run keeps both


def test_inputs_of_one_size_leave_magnitude_alone() -> None:
    w, _, _ = layer()
    made = Wanda(sparsity=0.25).encode(site(w, Moment(np.eye(96, dtype=np.float32), 1))).decode()
    for row, kept in zip(np.abs(w), made != 0, strict=True):
        assert row[kept].min() > row[~kept].max()


def test_what_is_left_keeps_its_code() -> None:
    w, moment, _ = layer()
    bf16 = Dense.of(w, "BF16")
    dense = Wanda().encode(Site("w", "linear", "s", bf16, {SecondMoment(): moment}))
    assert isinstance(dense, Sparse) and isinstance(dense.inner, Dense) and dense.inner.dtype.name == "BF16"
    np.testing.assert_array_equal(dense.decode()[dense.keep], bf16.decode()[dense.keep])
    q = np.random.default_rng(0).integers(0, 16, w.shape).astype(np.uint8)
    grid = Grid(q, Dense.of(np.ones((48, 1), np.float32)), None, bits_per_symbol=4, group=96, shape=w.shape)
    made = Wanda().encode(Site("w", "linear", "s", grid, {SecondMoment(): moment}))
    kept = made.decode() != 0
    assert isinstance(made, Grid) and np.array_equal(made.q[kept], q[kept])


@pytest.mark.parametrize("given", [{"n": 2}, {"n": 5, "m": 4}, {"sparsity": 1.1}])
def test_wrong_settings(given: dict) -> None:
    with pytest.raises(UsageError, match="prune.wanda"):
        Wanda(**given)
