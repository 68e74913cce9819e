"""quantize.kmeans against scikit-learn's and a literal Lloyd; pruned weights stay out; centroids train."""

import numpy as np
import pytest
import tiny
import torch
from sklearn.cluster import KMeans as Reference

from rarefy.codes import Codebook, Sparse
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.kmeans import KMeans, linear, lloyd, nearest
from rarefy.recipe import Recipe

WEIGHTS = np.random.default_rng(0).laplace(size=3000).astype(np.float32)


def literal(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm as everyone writes it."""
    for _ in range(1000):
        index = np.abs(weights[:, None] - centroids).argmin(1)
        new = np.array([weights[index == k].mean() for k in range(len(centroids)) if np.any(index == k)])
        if len(new) == len(centroids) and np.allclose(new, centroids, rtol=0, atol=1e-12):
            break
        centroids = new
    return centroids


@pytest.mark.parametrize("k", [2, 8, 32])
def test_it_is_lloyds_from_the_papers_start(k: int) -> None:
    weights = WEIGHTS.astype(np.float64)
    start = np.linspace(weights.min(), weights.max(), k)
    found = lloyd(WEIGHTS, linear(WEIGHTS, k))
    np.testing.assert_allclose(found, literal(weights, start), rtol=1e-9)
    if len(found) == k:  # scikit-learn fills empty clusters anew
        peer = Reference(k, init=start[:, None], n_init=1, max_iter=1000, tol=0, algorithm="lloyd")
        np.testing.assert_allclose(found, np.sort(peer.fit(weights[:, None]).cluster_centers_[:, 0]), rtol=1e-3)


def test_each_weight_takes_the_nearest() -> None:
    centroids = lloyd(WEIGHTS, linear(WEIGHTS, 16))
    distance = np.abs(WEIGHTS[:, None] - centroids)
    assert np.array_equal(distance[np.arange(WEIGHTS.size), nearest(WEIGHTS, centroids)], distance.min(1))


def test_few_values_are_kept_as_they_are_and_equal_ones_make_one() -> None:
    assert lloyd(np.float32([2, -1, 2, 5]), linear(np.float32([2, -1, 2, 5]), 8)).tolist() == [-1, 2, 5]
    assert lloyd(np.float32([3, 3]), linear(np.float32([3, 3]), 4)).tolist() == [3]


def test_pruned_weights_are_no_part_of_it() -> None:
    recipe = Recipe((Magnitude(sparsity=0.7), KMeans(bits=3)))
    made = recipe.apply(tiny.opened("chain"), tiny.evidence("chain"))
    for key in ("0.weight", "2.weight", "5.weight"):
        code, original = made.codes[key], made.original().codes[key].decode()
        assert isinstance(code, Sparse) and isinstance(code.inner, Codebook) and code.inner.values.size <= 8
        kept = original[code.keep]
        assert np.abs(kept).min() >= np.abs(original[~code.keep]).max()
        wanted = lloyd(kept, linear(kept, 8))
        np.testing.assert_allclose(code.inner.values, wanted, rtol=2**-8)


def test_few_zeros_are_a_centroid() -> None:
    recipe = Recipe((Magnitude(sparsity=0.2), KMeans(bits=3)))
    made = recipe.apply(tiny.opened("chain"), tiny.evidence("chain"))
    code, pruned = made.codes["0.weight"], Magnitude(sparsity=0.2).apply(tiny.opened("chain"), tiny.evidence("chain"))
    assert isinstance(code, Codebook) and code.values.size <= 8
    before = pruned.codes["0.weight"].decode()
    assert np.array_equal(code.decode() == 0, before == 0)
    assert np.abs(code.decode() - before).max() < 0.2 * np.abs(before).max()


def test_nothing_left_stays_nothing() -> None:
    recipe = Recipe((Magnitude(sparsity=1.0), KMeans()))
    made = recipe.apply(tiny.opened("chain"), tiny.evidence("chain"))
    assert not made.codes["0.weight"].decode().any()


def test_a_centroids_gradient_is_the_sum_of_its_weights_gradients() -> None:
    """Equation 3 of the paper."""
    recipe = Recipe((Magnitude(sparsity=0.5), KMeans(bits=2)))
    code = recipe.apply(tiny.opened("chain"), tiny.evidence("chain")).codes["0.weight"]
    assert isinstance(code, Sparse) and isinstance(code.inner, Codebook)
    centroids = torch.tensor(code.free()["centroids"], requires_grad=True)
    g = torch.randn(code.shape)
    (code.rebuild({"centroids": centroids}) * g).sum().backward()
    wanted = [g.numpy()[code.keep & (code.inner.index == k)].sum() for k in range(centroids.numel())]
    np.testing.assert_allclose(centroids.grad, wanted, rtol=1e-4, atol=1e-5)
