"""Rate curves: the step that a budget buys, and budgets that no step buys."""

import pytest

from rarefy.maths.curves import Curve, root


def test_the_root_spends_the_bits() -> None:
    curves = [Curve([0.5, 1, 2], [30, 20, 10]), Curve([0.25, 1, 4], [50, 30, 10])]
    for bits in (25.0, 40.0, 90.0, 400.0):
        step = root(curves, bits)
        assert sum(curve(step) for curve in curves) == pytest.approx(bits, rel=1e-4)


def test_fewer_bits_than_any_step_leaves_take_the_widest() -> None:
    assert root([Curve([1, 2], [9, 5])], 3.0) == pytest.approx(2)


def test_bits_that_no_step_spends_are_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        root([Curve([1, 2], [5, 5])], 6.0)
