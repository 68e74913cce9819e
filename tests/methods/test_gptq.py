"""GPTQ against a slow literal version with the explicit inverse Hessian."""

import numpy as np
import pytest
import torch

from rarefy.codes import Dense
from rarefy.evidence import Moment, SecondMoment, Site
from rarefy.maths.linalg import damped, inverse_factor
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN


def layer(rows: int = 48, columns: int = 96, seed: int = 0) -> tuple[np.ndarray, Moment]:
    """Weights, and the second moment of strongly correlated inputs."""
    random = np.random.default_rng(seed)
    w = random.standard_t(5, size=(rows, columns)).astype(np.float32)
    mix = random.normal(size=(columns, columns)) / 4 + np.eye(columns)
    x = random.normal(size=(4 * columns, columns)) * random.gamma(1, 1, columns) @ mix
    return w, Moment((x.T @ x / len(x)).astype(np.float32), len(x))


def site(w: np.ndarray, moment: Moment) -> Site:
    return Site("w", "linear", "s", Dense.of(w), {SecondMoment(): moment})


def grid(own: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale (bf16) and zero point of each row of one group."""
    low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
    levels = 2**bits - 1
    span = 2 * np.maximum(-low, high) if symmetric else high - low
    scale = torch.tensor((span / levels).astype(np.float32)).bfloat16().double().numpy()
    scale[scale == 0] = 1
    zero = np.full(len(own), 2.0 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / scale), 0, levels)
    return scale, zero


def literal(
    w: np.ndarray, s: np.ndarray, bits: int, group: int, symmetric: bool, damping: float, act_order: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and values: columns one by one, float64, the inverse Hessian of those left downdated after each.

    Optimal brain quantization with GPTQ's fixed order (Frantar et al. 2023, equations 2 and 3). A group's grid is
    fitted when its first column's turn comes; with act_order all grids are fitted to the weights as given.
    """
    w = w.astype(np.float64)
    rows, columns = w.shape
    group = group or columns
    h = s.astype(np.float64) + damping * np.diag(s).astype(np.float64).mean() * np.eye(columns)
    order = np.argsort(-np.diag(s), kind="stable") if act_order else np.arange(columns)
    grids = {g: grid(w[:, g : g + group], bits, symmetric) for g in range(0, columns, group)}
    inverse = np.linalg.inv(h)
    q = np.zeros((rows, columns), int)
    values = np.zeros((rows, columns))
    left = list(order)
    for j in order:
        if not act_order and j % group == 0:
            grids[j] = grid(w[:, j : j + group], bits, symmetric)
        scale, zero = grids[j // group * group]
        q[:, j] = np.clip(np.rint(w[:, j] / scale) + zero, 0, 2**bits - 1)
        values[:, j] = (q[:, j] - zero) * scale
        error = (w[:, j] - values[:, j]) / inverse[j, j]
        w[:, left] -= np.outer(error, inverse[j, left])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        left.remove(j)
    return q, values


def output_error(w: np.ndarray, rounded: np.ndarray, moment: Moment) -> float:
    return moment.energy(np.ascontiguousarray(w - rounded, np.float32))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("columns", "group"), [(96, 0), (96, 32), (90, 32), (300, 0), (8, 1)])
def test_integers_are_the_literal_ones(columns: int, group: int, act_order: bool, symmetric: bool) -> None:
    w, moment = layer(columns=columns)
    method = GPTQ(bits=4, group=group, symmetric=symmetric, act_order=act_order, damping=0.01)
    code = method.encode(site(w, moment))
    q, values = literal(w, moment.s, 4, group, symmetric, 0.01, act_order)
    # A value next to a tie falls either way, and takes the rest of its row along.
    same = (code.q == q).all(1)
    assert same.mean() >= 0.93
    np.testing.assert_allclose(code.decode()[same], values[same], rtol=1e-5)
    assert output_error(w, code.decode(), moment) == pytest.approx(output_error(w, values, moment), rel=5e-3)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("damping", [0.001, 0.1])
def test_bits_and_damping(bits: int, damping: float) -> None:
    w, moment = layer()
    code = GPTQ(bits=bits, group=16, damping=damping).encode(site(w, moment))
    q, _ = literal(w, moment.s, bits, 16, False, damping, False)
    assert (code.q == q).all(1).mean() >= 0.9 and code.q.max() < 2**bits


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_output_error_is_well_below_nearest(bits: int) -> None:
    w, moment = layer(rows=64)
    nearest = output_error(w, RTN(bits=bits, group=32).encode(site(w, moment)).decode(), moment)
    for act_order in (False, True):
        made = GPTQ(bits=bits, group=32, act_order=act_order).encode(site(w, moment)).decode()
        assert output_error(w, made, moment) < 0.6 * nearest


def test_damped_output_error_is_the_sum_of_the_columns_squared_errors() -> None:
    """tr(E S E^T) = sum_i |e_i|^2, with e_i the error of column i at its turn over U_ii."""
    w, moment = layer()
    made = GPTQ(bits=4, group=96).encode(site(w, moment)).decode().astype(np.float64)
    s = damped(moment.s.astype(np.float64), 0.01)
    u = inverse_factor(s)
    # The errors at their turn solve (W - Q) = E' U' with U' the rows of U, unit diagonal and all.
    errors = np.linalg.solve(u.T, (w - made).T).T
    assert np.einsum("ri,ij,rj->", w - made, s, w - made) == pytest.approx(np.square(errors).sum(), rel=1e-4)
    top = made.max(1, keepdims=True)
    inside = (np.abs(made) < 0.8 * top).mean()
    step = np.median(np.abs(np.diff(np.unique(made[0]))))
    share = (np.abs(errors[0] * np.diag(u)) <= 0.51 * step).mean()
    assert inside > 0.5 and share > 0.95  # each is at most half a step, where the range was not left


def test_without_correlation_it_rounds_to_nearest() -> None:
    w, moment = layer()
    white = Moment(np.eye(96, dtype=np.float32), 1)
    for act_order in (False, True):
        made = GPTQ(bits=4, group=32, act_order=act_order).encode(site(w, white))
        np.testing.assert_array_equal(made.q, RTN(bits=4, group=32).encode(site(w, white)).q)
    assert moment.count > 0


def test_inputs_that_never_fired_are_rounded_to_nearest() -> None:
    w, moment = layer()
    s = moment.s.copy()
    s[5], s[:, 5] = 0, 0
    made = GPTQ(bits=4, group=32).encode(site(w, Moment(s, 1))).decode()
    nearest = RTN(bits=4, group=32).encode(site(w, moment)).decode()
    assert np.abs(made[:, 5] - w[:, 5]).max() <= 2 * np.abs(nearest[:, 5] - w[:, 5]).max()
    assert np.isfinite(made).all()
    silent = GPTQ(bits=4, group=32).encode(site(w, Moment(np.zeros_like(s), 1)))
    np.testing.assert_array_equal(silent.decode(), nearest)


def test_pruned_weights_stay_zero_and_the_others_make_up_for_them() -> None:
    w, moment = layer()
    keep = np.random.default_rng(0).random(w.shape) < 0.5
    pruned = Site("w", "linear", "s", Dense.of(w).masked(keep), {SecondMoment(): moment})
    made = GPTQ(bits=4, group=32).encode(pruned).decode()
    assert (made[~keep] == 0).all()
    nearest = RTN(bits=4, group=32).encode(pruned).decode()
    w = pruned.weight()
    assert output_error(w, made, moment) < 0.8 * output_error(w, nearest, moment)


def test_a_group_wider_than_the_layer_is_a_scale_a_row() -> None:
    w, moment = layer()
    made = GPTQ(group=10**12).encode(site(w, moment))
    np.testing.assert_array_equal(made.q, GPTQ(group=0).encode(site(w, moment)).q)


def test_a_layer_of_one_input() -> None:
    w = np.array([[0.3], [-2.0]], np.float32)
    made = GPTQ(bits=8).encode(site(w, Moment(np.ones((1, 1), np.float32), 1))).decode()
    np.testing.assert_allclose(made, w, rtol=0.01)
