"""Integers on a grid of separable step: scales as exponents, far integers, what a reader refuses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.codes.base import Node
from rarefy.codes.separable import OCTAVE, ROOTS, Separable, exponents, powers
from rarefy.errors import FormatError
from rarefy.files import record


def make(q: np.ndarray, **more) -> Separable:
    zeros = [np.zeros(n, np.int16) for n in q.shape]
    return Separable(q.astype(np.int32), *zeros, shape=q.shape, **more)


def test_roots_are_the_nearest_float32() -> None:
    np.testing.assert_array_equal(ROOTS, np.exp2(np.arange(OCTAVE) / OCTAVE).astype(np.float32))


@given(st.floats(1e-30, 1e30))
def test_a_scale_comes_back_within_half_a_step(scale: float) -> None:
    assert abs(np.log2(powers(exponents(scale)[None])[0] / scale)) <= 0.5 / OCTAVE + 1e-6


def test_exponents_of_powers_are_themselves() -> None:
    every = np.arange(-120 * OCTAVE, 120 * OCTAVE, dtype=np.int16)
    np.testing.assert_array_equal(exponents(powers(every)), every)


def test_a_scale_of_zero_is_the_least() -> None:
    assert 0 < powers(exponents(np.zeros(1)))[0] <= 2 * np.finfo(np.float32).tiny


def test_points_stand_for_small_integers_only() -> None:
    code = make(np.array([[-4, -3, -2, -1, 0, 1, 2, 3, 4]]), points=np.float32([0.5, 1.75, 2.875]))
    np.testing.assert_array_equal(code.decode(), [[-4, -2.875, -1.75, -0.5, 0, 0.5, 1.75, 2.875, 4]])


@given(st.lists(st.one_of(st.integers(-130, 130), st.integers(-(2**31), 2**31 - 1)), min_size=1, max_size=60))
def test_any_integer_comes_back(values: list[int]) -> None:
    code = make(np.array([values]))
    again = record.decode(record.encode(code, "F32"))[0]
    assert isinstance(again, Separable)
    np.testing.assert_array_equal(again.q, code.q)


def test_an_empty_matrix_comes_back() -> None:
    for shape in ((0, 3), (3, 0)):
        assert record.decode(record.encode(make(np.zeros(shape)), "F32"))[0].shape == shape


def test_rows_and_columns_of_their_own_spread_cost_their_own_entropy() -> None:
    rng = np.random.default_rng(0)
    sigma = np.exp2(rng.uniform(-2, 2, (200, 1)) + rng.uniform(-2, 2, 300))
    q = np.rint(rng.normal(size=sigma.shape) * sigma)
    knots = np.exp2(np.linspace(-4, 4, 65))
    ideal = np.interp(np.log2(sigma), np.log2(knots), [entropy_of_a_rounded_gaussian(s) for s in knots]).mean()
    assert ideal < make(q).values().bits() / q.size < 1.01 * ideal


def entropy_of_a_rounded_gaussian(sigma: float) -> float:
    from scipy.stats import norm

    k = np.arange(-int(9 * sigma) - 2, int(9 * sigma) + 3)
    p = np.diff(norm.cdf(np.append(k - 0.5, k[-1] + 0.5) / sigma))
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def test_pruned_weights_are_left_out_of_the_spread() -> None:
    rng = np.random.default_rng(1)
    keep = rng.random((64, 64)) < 0.1
    q = np.rint(rng.normal(size=keep.shape) * 6) * keep
    values = next(s for s in make(q).streams(keep) if s.name == "values")
    assert values.symbols.size == keep.sum()
    assert values.bits() / keep.sum() == pytest.approx(entropy_of_a_rounded_gaussian(6), rel=0.05)


@pytest.mark.parametrize(
    "change",
    [lambda n: {"settings": ()}, lambda n: {"settings": (1, 1)}, lambda n: {"children": n.children[:2]},
     lambda n: {"children": (n.children[2], *n.children[1:])}],
    ids=["no settings", "too many", "a child short", "floats for exponents"],
)  # fmt: skip
def test_another_node_is_refused(change) -> None:
    node: Node = make(np.ones((2, 2))).node()
    with pytest.raises(FormatError):
        list(Separable.names(dataclasses.replace(node, **change(node))))


class Streams:
    """Hands out what a code wrote, with some streams replaced."""

    def __init__(self, code: Separable, **changed: np.ndarray) -> None:
        self.left = [(s.name, changed.get(s.name.replace(" ", "_"), s.symbols).reshape(-1)) for s in code.streams()]

    def next(self, count: int, given=None) -> np.ndarray:
        _, symbols = self.left.pop(0)
        if symbols.size != count:
            raise FormatError("another number of symbols")
        return symbols


def test_far_integers_must_be_far_and_as_many_as_announced() -> None:
    code = make(np.array([[5, 400, -700]]))
    near = np.array([7, -700], "<i4").view(np.uint8)
    with pytest.raises(FormatError, match="near"):
        Separable.read(code.shape, code.node(), Streams(code, far=near))
    with pytest.raises(FormatError, match="number of far"):
        Separable.read(code.shape, code.node(), Streams(code, values=np.array([5, 1, 128], np.uint8)))


def test_what_holds_the_same_is_seen_without_restoring() -> None:
    q, rows, columns = np.arange(-6, 6, dtype=np.int32).reshape(3, 4), np.zeros(3, np.int16), np.zeros(4, np.int16)
    one = Separable(q, rows, columns, shape=(3, 4))
    assert one.holds_as(Separable(q.copy(), rows, columns, shape=(3, 4)))
    assert not one.holds_as(Separable(q, rows, columns, shape=(4, 3)))
    assert not one.holds_as(Separable(q + 1, rows, columns, shape=(3, 4)))
    assert not one.holds_as(Separable(q, rows + 1, columns, shape=(3, 4)))
    assert not one.holds_as(Separable(q, rows, columns + 1, shape=(3, 4)))
    assert not one.holds_as(Separable(q, rows, columns, np.array([0.5, 2, 3], np.float32), shape=(3, 4)))
