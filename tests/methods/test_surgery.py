"""prune.surgery: masks against equation 3 written out, connections that return, and what is stored."""

import dataclasses

import numpy as np
import tiny
import torch

from rarefy.codes import Sparse
from rarefy.evidence import Site
from rarefy.methods.prune.surgery import Surgery
from rarefy.model import Model
from rarefy.training.latent import State

METHOD = Surgery(c=0.5, gamma=0.0)


def started(method: Surgery = METHOD) -> tuple[State, dict[str, torch.Tensor]]:
    model = tiny.opened("chain")
    site = Site("0.weight", "linear", "", model.codes["0.weight"])
    latent = method.start(site)
    return State(model, 1, steps=10, sites={site.name: site}, latents={site.name: latent}), latent


def test_masks_follow_equation_3() -> None:
    state, latent = started()
    w = latent["w"].detach().numpy()
    middle = np.abs(w).mean() + 0.5 * np.abs(w).std()
    np.testing.assert_allclose([float(latent["a"]), float(latent["b"])], [0.9 * middle, 1.1 * middle], rtol=1e-5)
    random = np.random.default_rng(0)
    mask = np.ones_like(w)
    for _ in range(3):
        METHOD.before(state)
        for i, size in enumerate(np.abs(w).flat):
            mask.flat[i] = 0 if size < 0.9 * middle else 1 if size >= 1.1 * middle else mask.flat[i]
        np.testing.assert_array_equal(latent["mask"].numpy(), mask)
        w = (w * random.uniform(0.3, 2, w.shape)).astype(np.float32)
        latent["w"].data.copy_(torch.from_numpy(w))
    assert 0.1 < mask.mean() < 0.9


def test_what_is_cut_is_trained_on_and_may_return() -> None:
    state, latent = started()
    site = state.sites["0.weight"]
    METHOD.before(state)
    cut = latent["mask"] == 0
    w = METHOD.project(site, latent, state)
    assert bool((w[cut] == 0).all()) and int(cut.sum()) > 10
    (g,) = torch.autograd.grad(w.square().sum() + w.sum(), latent["w"])
    assert bool((g[cut] == 1).all())
    latent["w"].data[cut] = 2 * latent["b"]
    METHOD.before(state)
    assert bool((latent["mask"][cut] == 1).all())


def test_masks_are_looked_at_more_and_more_seldom() -> None:
    method = dataclasses.replace(METHOD, gamma=0.1, until=0.95)
    state, latent = started(method)
    state.steps, seen = 1000, []
    torch.manual_seed(0)
    for state.step in (0, 9, 90, 900, 960):
        looked = 0
        for _ in range(200):
            latent["mask"].fill_(1)
            method.before(state)
            looked += bool((latent["mask"] == 0).any())
        seen.append(looked / 200)
    np.testing.assert_allclose(seen[:4], [1, 1 / 1.9, 1 / 10, 1 / 91], atol=0.1)
    assert seen[4] == 0


def test_a_higher_c_cuts_more_and_the_zeros_are_a_support() -> None:
    model, evidence = tiny.opened("chain"), tiny.evidence("chain", 64)
    left = []
    for c in (-0.5, 0.5, 1.5):
        made: Model = dataclasses.replace(METHOD, c=c, epochs=5.0, batch=16).apply(model, evidence)
        assert isinstance(made.codes["0.weight"], Sparse) and not isinstance(made.codes["0.bias"], Sparse)
        left.append(np.count_nonzero(made.codes["0.weight"].decode()))
    assert left[0] > left[1] > left[2] > 0
