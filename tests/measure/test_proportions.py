import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rarefy.measure.proportions import Outcomes, wilson


def ends(interval):
    return [interval.low, interval.high]


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_scipy(pair):
    successes, trials = pair
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    ours = wilson(successes, trials)
    assert_allclose(ends(ours), theirs, atol=1e-12)
    assert ours.value in ours


def test_wilson_needs_trials():
    for successes, trials in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="no proportion"):
            wilson(successes, trials)


def outcomes(both, first, second, neither):
    x = [True] * both + [True] * first + [False] * second + [False] * neither
    y = [True] * both + [False] * first + [True] * second + [False] * neither
    return x, y


def literal_newcombe(e, f, g, h):
    """Method 10 as printed: theta-hat = (f - g)/n, delta and epsilon from the two score intervals."""
    n = e + f + g + h
    score = lambda k: scipy.stats.binomtest(k, n).proportion_ci(method="wilson")  # noqa: E731
    (l2, u2), (l3, u3) = score(e + f), score(e + g)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    determinant = e * h - f * g
    if determinant > 0:
        determinant = max(determinant - n / 2, 0)
    phi = determinant / math.sqrt(product) if product else 0.0
    dl2, du2, dl3, du3 = (e + f) / n - l2, u2 - (e + f) / n, (e + g) / n - l3, u3 - (e + g) / n
    delta = math.sqrt(dl2**2 - 2 * phi * dl2 * du3 + du3**2)
    epsilon = math.sqrt(du2**2 - 2 * phi * du2 * dl3 + dl3**2)
    return (f - g) / n - delta, (f - g) / n + epsilon


tables = st.tuples(*[st.integers(0, 40)] * 4).filter(any).map(lambda counts: Outcomes(*counts))
published = Outcomes(1, 1, 7, 12)  # Bentur et al. (2009), worked in Fagerland, Lydersen and Laake (2014)


@given(tables)
def test_differences_are_newcombes_method_10(table):
    expected = literal_newcombe(table.both, table.first, table.second, table.neither)
    assert_allclose(ends(table.interval()), np.clip(expected, -1, 1), atol=1e-9)
    assert table.value in table.interval()


def test_a_published_table():
    interval = published.interval()
    assert_allclose([interval.value, *ends(interval)], [-6 / 21, -0.507, -0.026], atol=5e-4)
    assert published.p_value() == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    # Two-sided exact binomial: 2 * P(X <= min) of Binomial(first + second, 1/2), at most 1.
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 2**5), (5, 0, 2 / 2**5), (2, 8, 2 * (1 + 10 + 45) / 2**10)],
)
def test_mcnemar(first, second, p):
    assert Outcomes(100, first, second, 7).p_value() == pytest.approx(p)


def test_counts():
    table = Outcomes(3, 1, 4, 2)
    assert Outcomes.of(*outcomes(3, 1, 4, 2)) == table
    for wrong in (([True], [True, False]), ([], [])):
        with pytest.raises(ValueError, match="examples"):
            Outcomes.of(*wrong)


@given(tables)
def test_confidence_is_where_the_interval_ends(table):
    interval = table.interval()
    if interval.low > -1.0:
        assert table.at_least(interval.low) == pytest.approx(0.975, abs=1e-6)
    if interval.high < 1.0:
        assert table.at_most(interval.high) == pytest.approx(0.975, abs=1e-6)
    limits = sorted([-1.5, -1.0, table.value - 0.1, table.value, table.value + 0.1, 1.0, 1.5])
    sure = [table.at_most(limit) for limit in limits]
    assert sure == sorted(sure)
    assert sure[0] < 1e-9
    assert sure[-1] > 1 - 1e-9
    assert table.at_most(table.value) == pytest.approx(0.5)


def test_a_few_equal_answers_prove_little():
    # 20 of 20 right in both: resampling these examples could never show a difference.
    assert 0.3 < Outcomes(20, 0, 0, 0).at_least(-0.02) < 0.95
    assert Outcomes(2000, 0, 0, 0).at_least(-0.02) > 0.99
