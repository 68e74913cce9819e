import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch

from rarefy.measure import divergence


def logits(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32))


def test_softmax_kl_is_that_of_scipy():
    a, b = logits(4, 6, 50), logits(4, 6, 50, seed=1)
    p, q = (scipy.special.softmax(x.numpy().astype(np.float64), axis=-1) for x in (a, b))
    found = divergence.softmax_kl(a, b)
    assert found.shape == (4, 6)
    np.testing.assert_allclose(found, scipy.stats.entropy(p, q, axis=-1), rtol=2e-5)
    assert (divergence.softmax_kl(a, a + 5) < 1e-5).all()
    assert (divergence.softmax_kl(a, a) == 0).all()


def test_softmax_kl_does_not_depend_on_the_chunks(monkeypatch):
    a, b = logits(7, 50), logits(7, 50, seed=1)
    whole = divergence.softmax_kl(a, b)
    monkeypatch.setattr(divergence, "_VALUES_AT_ONCE", 100)
    torch.testing.assert_close(divergence.softmax_kl(a, b), whole)
    assert divergence.softmax_kl(a[:0], b[:0]).shape == (0,)


def test_a_class_may_be_excluded():
    a = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, 2.0]])
    b = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, -math.inf]])
    assert divergence.softmax_kl(a, b).tolist() == [0.0, math.inf]


def test_half_precision_is_only_where_it_comes_from():
    a = logits(3, 1000).bfloat16()
    found = divergence.softmax_kl(a, a.float())
    assert found.dtype == torch.float32
    assert (found == 0).all()


def test_cosine_distance():
    a, b = logits(5, 32), logits(5, 32, seed=1)
    np.testing.assert_allclose(
        divergence.cosine_distance(a, b), 1 - torch.cosine_similarity(a.double(), b.double()), rtol=1e-5
    )
    near = a.double() + 1e-4 * b.double()
    np.testing.assert_allclose(
        divergence.cosine_distance(a, near.float()), 1 - torch.cosine_similarity(a.double(), near), rtol=1e-2
    )


def test_gaussian_kl_is_the_integral():
    x = np.linspace(-20, 20, 200_001)
    p, q = scipy.stats.norm(1.0, 1.5).pdf(x), scipy.stats.norm(2.2, 1.5).pdf(x)
    integral = scipy.integrate.trapezoid(p * np.log(p / q), x)
    found = divergence.gaussian_kl(torch.tensor([1.0]), torch.tensor([2.2]), 1.5**2)
    assert found.item() == pytest.approx(integral, rel=1e-5)
    assert divergence.gaussian_kl(torch.zeros(4, 3), torch.ones(4, 3)).tolist() == [1.5] * 4


def test_likelihood_is_cross_entropy():
    a, targets = logits(3, 8, 40), torch.arange(24).reshape(3, 8)
    expected = torch.nn.functional.cross_entropy(a.reshape(-1, 40), targets.reshape(-1), reduction="none")
    torch.testing.assert_close(divergence.negative_log_likelihood(a, targets), expected.reshape(3, 8))
