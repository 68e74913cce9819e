import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rarefy.measure import statistics


def literal_bootstrap(blocks, resamples, seed):
    rng = np.random.default_rng(seed)
    means = sorted(
        sum(blocks[i] for i in rng.integers(0, len(blocks), len(blocks))) / len(blocks) for _ in range(resamples)
    )
    return means[int(0.025 * (resamples - 1))], means[math.ceil(0.975 * (resamples - 1))]


def ends(interval):
    return [interval.low, interval.high]


def test_bootstrap_is_the_literal_one():
    blocks = np.random.default_rng(1).gamma(2.0, 0.1, 80)
    interval = statistics.block_bootstrap(blocks, seed=3, resamples=500)
    assert interval.value == pytest.approx(blocks.mean())
    # Same law, and with the same generator even the same draws.
    assert_allclose(ends(interval), literal_bootstrap(blocks, 500, 3), rtol=1e-12)


def test_bootstrap_agrees_with_scipy():
    blocks = np.random.default_rng(2).gamma(2.0, 0.1, 100)
    ours = statistics.block_bootstrap(blocks, resamples=9999)
    theirs = scipy.stats.bootstrap((blocks,), np.mean, method="percentile", rng=0).confidence_interval
    assert_allclose(ends(ours), theirs, rtol=0.01)


def test_bootstrap_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(4)
    trials = 400
    # Skewed blocks, as KL has them: a gamma of shape 2, mean 1.
    covered = sum(
        1.0 in statistics.block_bootstrap(rng.gamma(2.0, 0.5, 64), seed=i, resamples=400) for i in range(trials)
    )
    # A percentile interval of 64 skewed blocks covers 93 to 94 times in 100; 0.91 to 0.97 is that, give or take.
    assert 0.91 < covered / trials < 0.97


def test_dependent_tokens_widen_the_interval():
    rng = np.random.default_rng(5)
    tokens = rng.normal(0.0, 1.0, (100, 1)) + rng.normal(0.0, 1.0, (100, 64))
    by_block = statistics.block_bootstrap(tokens.mean(axis=1))
    by_token = statistics.block_bootstrap(tokens.ravel(), resamples=300)
    assert by_block.high - by_block.low > 4 * (by_token.high - by_token.low)


def test_bootstrap_in_pieces_is_the_bootstrap(monkeypatch):
    blocks = np.random.default_rng(6).normal(size=(70, 2))
    whole = statistics.block_bootstrap(blocks, lambda m: np.exp(m[:, 0]) - np.exp(m[:, 1]))
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 1)
    pieces = statistics.block_bootstrap(blocks, lambda m: np.exp(m[:, 0]) - np.exp(m[:, 1]))
    assert_allclose(ends(whole), ends(pieces), rtol=1e-12)


def test_pairing_removes_what_the_blocks_share():
    rng = np.random.default_rng(7)
    shared = rng.normal(3.0, 1.0, 100)
    a, b = shared + 0.02 + rng.normal(0, 0.01, 100), shared + rng.normal(0, 0.01, 100)
    paired = statistics.paired_bootstrap(a, b)
    assert paired.low > 0
    assert paired.high - paired.low < 0.01
    assert paired.value == pytest.approx((a - b).mean())


def test_bootstrap_at_the_edges():
    assert ends(statistics.block_bootstrap([2.5])) == [-math.inf, math.inf]
    assert ends(statistics.block_bootstrap([2.5, 2.5, 2.5])) == [2.5, 2.5]
    infinite = statistics.block_bootstrap([1.0, math.inf, 2.0])
    assert infinite.value == math.inf
    assert not math.isnan(infinite.low)
    assert infinite.high == math.inf
    with pytest.raises(ValueError, match="at least one block"):
        statistics.block_bootstrap([])
    with pytest.raises(ValueError, match="need a statistic"):
        statistics.block_bootstrap(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="same blocks"):
        statistics.paired_bootstrap([1.0], [1.0, 2.0])


def test_few_blocks_are_named():
    assert statistics.too_few(64) is None
    assert "12 blocks" in (statistics.too_few(12) or "")


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_scipy(pair):
    successes, trials = pair
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    ours = statistics.wilson(successes, trials)
    assert_allclose(ends(ours), theirs, atol=1e-12)
    assert ours.value in ours


def test_wilson_needs_trials():
    for successes, trials in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="no proportion"):
            statistics.wilson(successes, trials)


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


@given(*[st.integers(0, 40)] * 4)
def test_paired_accuracy_is_newcombes_method_10(e, f, g, h):
    if e + f + g + h == 0:
        return
    interval = statistics.paired_accuracy(*outcomes(e, f, g, h))
    assert_allclose(ends(interval), np.clip(literal_newcombe(e, f, g, h), -1, 1), atol=1e-9)
    assert interval.value in interval


def test_paired_accuracy_on_a_published_table():
    # Bentur et al. (2009), as worked in Fagerland, Lydersen and Laake (2014): -0.29 (-0.507 to -0.026).
    interval = statistics.paired_accuracy(*outcomes(1, 1, 7, 12))
    assert_allclose([interval.value, *ends(interval)], [-6 / 21, -0.507, -0.026], atol=5e-4)


def test_paired_accuracy_wants_pairs():
    with pytest.raises(ValueError, match="same examples"):
        statistics.paired_accuracy([True], [True, False])
