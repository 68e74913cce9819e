"""Entropy-coded quantization: every weight costs c^2/24 nats, and the bits asked for are spent."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import rarefy
from rarefy.codes import Dense, Sparse
from rarefy.codes.separable import Separable
from rarefy.errors import RarefyError, UsageError
from rarefy.evidence import Curvature, Evidence, Kronecker, Moment, Site
from rarefy.files import record
from rarefy.joint import refuse_non_finite
from rarefy.measure.rate import rate
from rarefy.methods.factor.svd import SVD
from rarefy.methods.quantize.entropy import Entropy, combined
from rarefy.model import Model
from rarefy.opening import open_model
from rarefy.recipe import Recipe

STORIES = Path(os.environ.get("RAREFY_DATA", Path(__file__).parents[3] / "shared/data")) / "lm/stories260K"
OUT, IN = 96, 128
RNG = np.random.default_rng(0)
W = RNG.normal(size=(OUT, IN)).astype(np.float32)
IDS = RNG.integers(3, 512, (8, 64))
G = np.exp(RNG.normal(size=OUT)).astype(np.float32)
X = RNG.normal(size=(1000, 24)) @ RNG.normal(size=(24, IN)) + 0.1 * RNG.normal(size=(1000, IN))
S = (X.T @ X / 1000).astype(np.float32)


def site(code=None, *uses: tuple[np.ndarray, np.ndarray]) -> Site:
    known = tuple(Kronecker("linear", rows, Moment(s, 1000)) for rows, s in uses or [(G, S)])
    return Site("w", "linear", "one", code or Dense.of(W), {Curvature(): known})


def nats(code, uses=((G, S),)) -> float:
    """1/2 sum_r g_r e_r^T S e_r, written out."""
    e = code.decode().astype(np.float64) - W
    return sum(0.5 * float(np.einsum("r,ri,ij,rj", rows, e, s, e)) for rows, s in uses)


def test_at_high_rate_a_weight_costs_c2_over_24() -> None:
    for step in (1e-3, 3e-3):
        found = nats(Entropy(step=step, damping=0).encode(site()))
        assert found == pytest.approx(W.size * step**2 / 24, rel=0.02)


def test_uniform_steps_of_the_same_rate_cost_more() -> None:
    code = Entropy(step=0.5).encode(site())
    low, high = 1e-3, 10.0
    for _ in range(40):  # bisection for the step of the same rate
        step = (low * high) ** 0.5
        plain = Separable(np.rint(W / step).astype(np.int32), *ones(step), shape=W.shape)
        low, high = (step, high) if plain.bits() > code.bits() else (low, step)
    assert nats(code) < 0.25 * nats(plain)


def ones(step: float) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(OUT, np.int16), np.full(IN, round(32 * np.log2(step)), np.int16)


def test_zeros_of_a_pruning_stay() -> None:
    keep = RNG.random(W.shape) < 0.5
    code = Entropy(step=0.1).encode(site(Sparse(keep, Dense.of(W))))
    assert not code.decode()[~keep].any()
    assert np.count_nonzero(code.decode()) > 0.8 * keep.sum()


def test_two_uses_of_one_profile_are_their_sum() -> None:
    rows, s = combined([(G, S), (3 * G, 2 * np.eye(IN, dtype=np.float32))])
    np.testing.assert_allclose(rows, G / G.mean(), rtol=1e-5)
    np.testing.assert_allclose(s, G.mean() * (S + 6 * np.eye(IN)), rtol=1e-5)


def test_a_use_without_curvature_changes_nothing() -> None:
    rows, s = combined([(G, S), (np.zeros_like(G), S)])
    np.testing.assert_allclose(rows, G / G.mean(), rtol=1e-6)
    np.testing.assert_allclose(s, G.mean() * S, rtol=1e-6)


def test_a_forecast_is_near_what_coding_takes() -> None:
    w = np.tile(W, (20, 1))
    g = np.tile(G, 20)
    big = dataclasses.replace(site(None, (g, S)), code=Dense.of(w))
    forecast = Entropy().forecast(big, *Entropy().metric(big))
    assert forecast["weights"] == w.size
    for step, bits in zip(forecast["steps"], forecast["bits"], strict=True):
        assert Entropy(step=step).encode(big).bits() == pytest.approx(bits, rel=0.05)


@pytest.mark.parametrize("name", ["chain", "llama", "llama_tied"])
def spent(model: Model) -> float:
    """Bits a weight in records of what was coded."""
    codes = [code for code in model.codes.values() if isinstance(code, Separable)]
    return 8 * sum(len(record.encode(code, "F32")) for code in codes) / sum(code.q.size for code in codes)


@pytest.mark.parametrize("name", ["chain", "llama", "llama_tied"])
@pytest.mark.parametrize("bits", [5.0, 7.0])
def test_the_bits_asked_for_are_spent(name: str, bits: float) -> None:
    made = Entropy(bits=bits).apply(Model.from_module(tiny.build(name)), tiny.evidence(name))
    assert spent(made) == pytest.approx(bits, rel=0.1)


@pytest.mark.parametrize("bits", [1.5, 3.0])
def test_a_real_network_takes_the_bits_asked_for(bits: float) -> None:
    if not STORIES.is_dir():
        pytest.skip("needs ../shared/data/lm/stories260K")
    made = Entropy(bits=bits).apply(open_model(STORIES), Evidence(IDS))
    assert spent(made) == pytest.approx(bits, rel=0.025)


def test_a_file_is_as_large_as_it_may_be(tmp_path) -> None:
    if not STORIES.is_dir():
        pytest.skip("needs ../shared/data/lm/stories260K")
    ids = tmp_path / "ids.npz"
    np.savez(ids, x=IDS)
    rarefy.compress(STORIES, tmp_path / "out", Entropy(size=150_000), data=[ids])
    assert 0.99 * 150_000 <= rate(tmp_path / "out").bytes <= 150_000


@pytest.mark.parametrize("size", [3000, 7000, 12000])
def test_small_networks_keep_a_size_too(size: int, tmp_path) -> None:
    ids = tmp_path / "ids.npz"
    np.savez(ids, x=tiny.inputs("llama"))
    network = tmp_path / "llama"
    tiny.build("llama").save_pretrained(network)
    try:
        rarefy.compress(network, tmp_path / "out", Entropy(size=size), data=[ids])
    except UsageError as error:
        assert size == 3000 and "too few" in str(error)
    else:
        assert 0.85 * size <= rate(tmp_path / "out").bytes <= size


def test_a_size_that_the_rest_exceeds_is_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        Entropy(size=100).apply(Model.from_module(tiny.build("chain")), tiny.evidence("chain"))


def test_a_size_and_what_adds_to_the_file_do_not_go_together() -> None:
    recipe = Recipe((Entropy(size=5000), SVD(residual=True)))
    with pytest.raises(UsageError, match=r"quantize\.entropy cannot keep a size when factor\.svd adds to it"):
        recipe.apply(Model.from_module(tiny.build("chain")), tiny.evidence("chain"))


def test_a_matrix_that_does_not_move_the_output_is_left_and_named() -> None:
    still = site(None, (np.zeros_like(G), S))
    assert Entropy().declines(still) == "the output does not move with it"
    assert not Entropy().declines(site())
    net = tiny.build("chain")
    with torch.no_grad():
        net[-1].weight.zero_()  # what comes before it has no say any more
    made = Entropy(bits=6.0).apply(Model.from_module(net), tiny.evidence("chain"))
    assert made.history[0].untouched["0.weight"] == "the output does not move with it"


def test_gradients_that_overflow_are_named() -> None:
    with pytest.raises(RarefyError, match="what flows into w is not finite"):
        refuse_non_finite(site(None, (np.full_like(G, np.inf), S)))
