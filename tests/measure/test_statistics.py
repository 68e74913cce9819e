import math

import numpy as np
import pytest
import scipy.stats
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


def test_confidence_is_the_share_of_draws():
    rng = np.random.default_rng(8)
    blocks = rng.normal(0.1, 1.0, 100)
    found = statistics.bootstrap(blocks, resamples=800, seed=2)
    again = np.random.default_rng(2)
    means = [np.mean([blocks[i] for i in again.integers(0, 100, 100)]) for _ in range(800)]
    for limit in (-0.1, 0.1, 0.3):
        assert found.at_most(limit) == sum(mean <= limit for mean in means) / 801
        assert found.at_least(limit) == sum(mean >= limit for mean in means) / 801
    # The law of a mean is nearly normal: the one-sided normal test says about the same.
    assert found.at_most(0.3) == pytest.approx(
        scipy.stats.norm.cdf((0.3 - blocks.mean()) / (blocks.std() / 10)), abs=0.02
    )


def test_confidence_is_right_as_often_as_it_says():
    rng = np.random.default_rng(9)
    # Networks that are worse by exactly the margin: 95 % confidence may be reached once in 20 times.
    wrong = sum(
        statistics.bootstrap(rng.normal(0.2, 1.0, 80), seed=i, resamples=400).at_most(0.2) >= 0.95 for i in range(400)
    )
    assert 0.02 < wrong / 400 < 0.09


def test_one_block_is_confident_of_nothing():
    found = statistics.bootstrap([0.3])
    assert max(found.at_most(1e9), found.at_least(-1e9)) < 0.5


def scored(n=60, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, n).astype(float)
    return gold, gold + rng.normal(0, 1, n), gold + rng.normal(0, 3, n)


def test_rank_correlation_is_scipys_on_literal_draws():
    gold, first, second = scored()
    alone, both = statistics.rank_correlation(gold, first), statistics.rank_correlation(gold, first, second)
    rho = lambda rows, scores: scipy.stats.spearmanr(gold[rows], scores[rows]).statistic  # noqa: E731
    everything = np.arange(60)
    assert alone.value == pytest.approx(rho(everything, first))
    assert both.value == pytest.approx(rho(everything, first) - rho(everything, second))
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 60, 60) for _ in range(2000)]
    assert_allclose(alone.draws, sorted(rho(rows, first) for rows in draws), atol=1e-12)
    assert_allclose(both.draws, sorted(rho(rows, first) - rho(rows, second) for rows in draws), atol=1e-12)


def test_scores_that_rank_nothing():
    gold, first, _ = scored()
    collapsed = np.ones_like(first)
    assert statistics.rank_correlation(gold, collapsed).interval().value == 0.0
    assert statistics.rank_correlation(gold, first, collapsed).value == statistics.rank_correlation(gold, first).value
    assert ends(statistics.rank_correlation([1.0], [2.0]).interval()) == [-math.inf, math.inf]
