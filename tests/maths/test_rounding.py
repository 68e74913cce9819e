"""Sequential rounding: the identity of its error, and the same values as column by column."""

import numpy as np
import pytest

from rarefy.maths.linalg import inverse_factor
from rarefy.maths.rounding import BLOCK, block_for, round_sequentially


def correlated(n: int) -> np.ndarray:
    random = np.random.default_rng(n)
    x = random.normal(size=(4 * n, n)).cumsum(1) / 3 + random.normal(size=(4 * n, n))
    return x.T @ x / len(x)


def literal(w: np.ndarray, u: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Column after column, the error fed to every later one at once (Frantar et al. 2023, algorithm 1), float64."""
    w = w.astype(np.float64)
    rounded, errors = np.empty_like(w), np.empty_like(w)
    for i in range(w.shape[1]):
        rounded[:, i] = np.rint(w[:, i] / step) * step
        errors[:, i] = (w[:, i] - rounded[:, i]) / u[i, i]
        w[:, i:] -= np.outer(errors[:, i], u[i, i:])
    return rounded, errors


@pytest.mark.parametrize(("columns", "block"), [(40, 8), (40, 16), (40, 64), (300, 128), (1, 4)])
def test_rounding_is_column_by_column_and_its_error_the_sum_of_squares(columns: int, block: int) -> None:
    random = np.random.default_rng(1)
    w = random.normal(size=(24, columns)).astype(np.float32)
    s = correlated(columns)
    u = inverse_factor(s)
    step = np.float32(0.25)
    made = round_sequentially(w, u.astype(np.float32), lambda _, column: np.rint(column / step) * step, block=block)
    expected, errors = literal(w, u, float(step))
    assert (made != expected).mean() < 0.002  # float32 ties
    same = (made == expected).all(1)
    assert same.mean() > 0.9
    lost = w.astype(np.float64)[same] - made[same]
    assert np.einsum("ri,ij,rj->", lost, s, lost) == pytest.approx(np.square(errors[same]).sum(), rel=1e-4)


def test_feedback_beats_rounding_to_nearest() -> None:
    random = np.random.default_rng(2)
    w, s = random.normal(size=(64, 96)).astype(np.float32), correlated(96)
    u = inverse_factor(s).astype(np.float32)

    def error(rounded: np.ndarray) -> float:
        return float(np.einsum("ri,ij,rj->", w - rounded, s, w - rounded))

    made = round_sequentially(w, u, lambda _, column: np.rint(column), block=32)
    assert error(made) < 0.5 * error(np.rint(w))


def test_the_error_at_high_rate_is_a_twelfth_of_the_squared_step_a_column() -> None:
    """A step c U_ii a column makes every column cost c^2 / 12 a row."""
    random = np.random.default_rng(3)
    columns, rows, c = 64, 2000, 0.01
    s = correlated(columns)
    u = inverse_factor(s)
    steps = (c * np.diag(u)).astype(np.float32)
    w = random.normal(size=(rows, columns)).astype(np.float32)
    made = round_sequentially(w, u.astype(np.float32), lambda i, x: np.rint(x / steps[i]) * steps[i], block=32)
    lost = w.astype(np.float64) - made
    assert np.einsum("ri,ij,rj->", lost, s, lost) == pytest.approx(rows * columns * c**2 / 12, rel=0.02)


@pytest.mark.parametrize(("group", "block"), [(64, 64), (256, 256), (300, 300), (384, 128), (640, 128), (1, 1)])
def test_every_group_opens_with_a_block(group: int, block: int) -> None:
    assert block_for(group) == block
    assert group % block == 0 or block % group == 0
    starts = {start for start in range(0, 4 * group, block) if start % group == 0}
    assert starts == set(range(0, 4 * group, group))


def test_openers_see_all_feedback() -> None:
    w = np.random.default_rng(4).normal(size=(5, 9)).astype(np.float32)
    u = inverse_factor(correlated(9))
    opened = []
    round_sequentially(
        w,
        u.astype(np.float32),
        lambda _, column: np.rint(column),
        block=4,
        opener=lambda start, rest: opened.append((start, rest.copy())),
    )
    assert [start for start, _ in opened] == [0, 4, 8] and BLOCK == 128
    fed = w.astype(np.float64)
    for i in range(4):
        fed[:, i:] -= np.outer((fed[:, i] - np.rint(fed[:, i])) / u[i, i], u[i, i:])
    np.testing.assert_allclose(opened[1][1], fed[:, 4:].T, rtol=1e-4, atol=1e-5)
