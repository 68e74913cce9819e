"""SparseGPT against a slow literal version with the explicit inverse Hessian."""

import dataclasses

import numpy as np
import pytest
from methods.layers import layer, site, tiles

from rarefy.codes import Dense, Grid, Sparse
from rarefy.errors import UsageError
from rarefy.evidence import Moment, SecondMoment, Site
from rarefy.maths.linalg import damped
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.prune.sparsegpt import SparseGPT
from rarefy.methods.prune.wanda import Wanda
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN


def inverse_hessian(s: np.ndarray, damping: float) -> np.ndarray:
    h = s.astype(np.float64) + damping * np.diag(s).astype(np.float64).mean() * np.eye(len(s))
    return np.linalg.inv(h)


def literal(w: np.ndarray, s: np.ndarray, given: SparseGPT) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask: column after column in float64, each time with the inverse Hessian of the columns left, all of
    them updated at once (Frantar and Alistarh 2023, equations 3 to 5 and algorithm 1)."""
    w = w.astype(np.float64)
    rows, columns = w.shape
    inverse = inverse_hessian(s, given.damping)
    keep = np.ones(w.shape, bool)
    run = given.m or given.block
    for j in range(columns):
        if j % run == 0:
            chosen = range(j, min(j + run, columns))
            # Of column k its inverse Hessian when its own turn comes: all columns before it are gone by then.
            cost, later = {}, inverse.copy()
            for k in chosen:
                for r in range(rows):
                    cost[r, k] = w[r, k] ** 2 / later[k, k]
                later -= np.outer(later[:, k], later[k]) / later[k, k]
            if given.m:
                for r in range(rows):
                    cheap = sorted(chosen, key=lambda k: cost[r, k])
                    keep[r, cheap[: max(len(cheap) - given.n, 0)]] = False
            else:
                due = round(given.sparsity * rows * (chosen[-1] + 1)) - round(given.sparsity * rows * j)
                for r, k in sorted(cost, key=cost.__getitem__)[:due]:
                    keep[r, k] = False
        error = np.where(keep[:, j], 0, w[:, j]) / inverse[j, j]
        w[:, j:] -= np.outer(error, inverse[j, j:])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = np.inf  # its turn is over
    w[~keep] = 0
    return w, keep


@pytest.mark.parametrize(
    "method",
    [
        SparseGPT(),
        SparseGPT(sparsity=0.37, block=32),
        SparseGPT(sparsity=0.8, block=10**9),
        SparseGPT(sparsity=0.5, block=1),
        SparseGPT(sparsity=0.5, block=300, damping=0.1),
        SparseGPT(n=2, m=4),
        SparseGPT(n=1, m=7),
        SparseGPT(n=100, m=150),
    ],
    ids=lambda m: f"{m.sparsity} {m.n}:{m.m} {m.block}",
)
@pytest.mark.parametrize("columns", [96, 310])
def test_values_are_the_literal_ones(columns: int, method: SparseGPT) -> None:
    w, moment, _ = layer(rows=16, columns=columns)
    made = method.encode(site(w, moment))
    assert isinstance(made, Sparse)
    values, keep = literal(w, moment.s, method)
    # A choice that float32 turns the other way changes what its row has from there on.
    same = (made.keep == keep).all(1)
    assert same.mean() >= 0.8
    np.testing.assert_allclose(made.decode()[same], values[same], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(("sparsity", "block"), [(0.5, 128), (0.3, 7), (0.123, 32), (0, 128), (1, 50)])
def test_sparsity_is_exact(sparsity: float, block: int) -> None:
    w, moment, _ = layer(rows=7, columns=90)
    made = SparseGPT(sparsity=sparsity, block=block).encode(site(w, moment)).decode()
    assert np.count_nonzero(made == 0) == round(sparsity * w.size)
    if sparsity == 0:
        np.testing.assert_array_equal(made, w)


@pytest.mark.parametrize(("n", "m", "last"), [(2, 4, 2), (4, 8, 2), (1, 4, 1), (5, 300, 5)])
def test_patterns_are_exact_and_a_short_last_run_keeps_its_n(n: int, m: int, last: int) -> None:
    w, moment, _ = layer(columns=90)
    kept = tiles(SparseGPT(n=n, m=m).encode(site(w, moment)).decode(), m)
    assert (kept[:, :-1] == n).all() and (kept[:, -1] == last).all()


@pytest.mark.parametrize("given", [{"sparsity": 0.5}, {"sparsity": 0.8}, {"n": 2, "m": 4}, {"n": 4, "m": 8}])
@pytest.mark.parametrize("seed", range(4))
def test_the_more_is_known_of_inputs_the_less_is_lost(seed: int, given: dict) -> None:
    w, moment, _ = layer(seed=seed)
    made = [method(**given).encode(site(w, moment)).decode() for method in (SparseGPT, Wanda, Magnitude)]
    sparsegpt, wanda, magnitude = (moment.energy(values - w) for values in made)
    assert sparsegpt < wanda < magnitude


def test_an_independent_input_is_pruned_by_wandas_score_and_nothing_moves() -> None:
    """Where S is diagonal U_ii^2 is 1 / S_ii, and no weight can make up for another."""
    w, _, _ = layer()
    s = np.diag(np.random.default_rng(1).gamma(1, 1, 96)).astype(np.float32)
    white = Moment(s, 1)
    made = SparseGPT(n=2, m=4, damping=0).encode(site(w, white)).decode()
    np.testing.assert_array_equal(made, Wanda(n=2, m=4).encode(site(w, white)).decode())


def test_what_an_earlier_step_took_stays_away_and_counts() -> None:
    w, moment, _ = layer()
    once = Magnitude(sparsity=0.4).encode(site(w, moment))
    again = Site("w", "linear", "s", once, {SecondMoment(): moment})
    for method in (SparseGPT(sparsity=0.6, block=96), SparseGPT(n=2, m=4)):
        made = method.encode(again).decode()
        assert not made[~once.keep].any()
        if not method.m:
            assert np.count_nonzero(made) == round(0.4 * w.size)
    less = SparseGPT(sparsity=0.2).encode(again)
    assert isinstance(less, Sparse)
    np.testing.assert_array_equal(less.keep, once.keep)


def test_dense_weights_keep_their_type_and_quantized_ones_become_dense() -> None:
    w, moment, _ = layer()
    given = {SecondMoment(): moment}
    made = SparseGPT().encode(Site("w", "linear", "s", Dense.of(w, "BF16"), given))
    assert isinstance(made, Sparse) and isinstance(made.inner, Dense) and made.inner.dtype.name == "BF16"
    grid = RTN(bits=4).encode(site(w, moment))
    assert isinstance(grid, Grid)
    made = SparseGPT().encode(Site("w", "linear", "s", grid, given))
    assert isinstance(made, Sparse) and isinstance(made.inner, Dense) and made.inner.dtype.name == "F32"


def test_a_convolution_is_its_matrix() -> None:
    w, moment, _ = layer(columns=90)
    flat = SparseGPT(n=2, m=4).encode(site(w, moment)).decode()
    made = SparseGPT(n=2, m=4).encode(site(w.reshape(48, 10, 3, 3), moment))
    np.testing.assert_array_equal(made.decode(), flat.reshape(48, 10, 3, 3))


def test_then_gptq_is_the_joint_pass_with_that_mask() -> None:
    """By linearity: pruned, then rounded with feedback of what rounding lost, is both at once."""
    w, moment, _ = layer(rows=32)
    pruned = SparseGPT(sparsity=0.5).encode(site(w, moment))
    code = GPTQ(bits=4, group=0, damping=0.01).encode(dataclasses.replace(site(w, moment), code=pruned))
    assert isinstance(pruned, Sparse) and isinstance(code, Grid)
    scale, zero = code.scale.decode()[:, 0].astype(np.float64), code.zero_points()[:, 0].astype(np.float64)
    joint, inverse = w.astype(np.float64), inverse_hessian(moment.s, 0.01)
    for j in range(96):
        level = np.clip(np.rint(joint[:, j] / scale) + zero, 0, 15) - zero
        value = np.where(pruned.keep[:, j], level, 0) * scale
        joint[:, j + 1 :] -= np.outer((joint[:, j] - value) / inverse[j, j], inverse[j, j + 1 :])
        joint[:, j] = value
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = np.inf
    same = np.isclose(code.decode(), joint, rtol=1e-4, atol=1e-6).all(1)
    assert same.mean() >= 0.8  # but for rows with a tie that float32 turns the other way


@pytest.mark.parametrize("quantize", [GPTQ(bits=4, group=32), RTN(bits=4, group=32)])
def test_zeros_survive_quantization(quantize) -> None:
    w, moment, _ = layer()
    pruned = SparseGPT(n=2, m=4).encode(site(w, moment))
    made = quantize.encode(dataclasses.replace(site(w, moment), code=pruned))
    assert (tiles(made.masked(pruned.support()).decode(), 4) <= 2).all()
    if isinstance(quantize, GPTQ):
        assert (tiles(made.decode(), 4) <= 2).all()


def test_inputs_that_never_fired_get_nothing_fed() -> None:
    w, moment, _ = layer()
    s = moment.s.copy()
    s[5], s[:, 5] = 0, 0
    made = SparseGPT().encode(site(w, Moment(s, 1))).decode()
    kept = made[:, 5] != 0
    np.testing.assert_allclose(made[kept, 5], w[kept, 5], rtol=1e-5)
    assert np.isfinite(made).all() and np.linalg.eigvalsh(damped(s.astype(np.float64), 0.01)).min() > 0


@pytest.mark.parametrize("given", [{"m": 4}, {"n": 5, "m": 4}, {"sparsity": -0.1}, {"block": 0}])
def test_wrong_settings(given: dict) -> None:
    with pytest.raises(UsageError, match="prune.sparsegpt"):
        SparseGPT(**given)
