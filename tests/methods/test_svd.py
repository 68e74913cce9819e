"""Truncated SVD against the literal optimum, and what it corrects."""

import dataclasses

import numpy as np
import pytest
import tiny
from scipy.linalg import sqrtm

from rarefy.codes import Dense, Grid, Sparse
from rarefy.codes.factored import Factored
from rarefy.codes.separable import Separable
from rarefy.codes.summed import Sum
from rarefy.errors import UsageError
from rarefy.evidence import Moment, SecondMoment, Site
from rarefy.joint import apply_jointly
from rarefy.methods.factor.svd import SVD, left_vectors
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN
from rarefy.recipe import Recipe


def layer(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(4 * columns, columns)) * random.gamma(1, 1, columns)
    return random.normal(size=(rows, columns)), x.T @ x / len(x)


@pytest.mark.parametrize("rank", [1, 7, 20])
@pytest.mark.parametrize(("rows", "columns"), [(30, 70), (70, 30), (40, 40)])
def test_nothing_of_that_rank_loses_less(rows: int, columns: int, rank: int) -> None:
    """Eckart and Young: what is lost is the energy of the singular values of W S^1/2 that are left out."""
    w, s = layer(rows, columns)
    p = left_vectors(w, s, rank)
    error = w - p @ (p.T @ w)
    left_out = np.linalg.svd(w @ sqrtm(s).real, compute_uv=False)[rank:]
    assert np.trace(error @ s @ error.T) == pytest.approx(np.square(left_out).sum(), rel=1e-9)
    np.testing.assert_allclose(p.T @ p, np.eye(rank), atol=1e-9)


@pytest.mark.parametrize(("bits", "scales"), [(2, 96), (8, 1)])
def test_one_scale_or_one_a_row_whichever_pays(bits: int, scales: int) -> None:
    """Of a matrix of low rank, all of whose error is that of its factors."""
    w, s = layer(96, 96)
    own = Site("w", "linear", "s", Dense.of(w[:, :20] @ w[:20]), {SecondMoment(): Moment(s.astype(np.float32), 1000)})
    code = SVD(rank=20, bits=bits).encode(own)
    assert isinstance(code, Factored)
    assert code.a.free()["scale"].shape == (scales, 1)


@pytest.mark.parametrize(("rows", "columns"), [(48, 96), (96, 48)])
def test_factors_of_eight_bits_lose_hardly_more(rows: int, columns: int) -> None:
    w, s = layer(rows, columns)
    moment = Moment(s.astype(np.float32), 1000)
    own = Site("w", "linear", "s", Dense.of(w), {SecondMoment(): moment})
    code = SVD(share=0.4, bits=8, damping=0).encode(own)
    assert isinstance(code, Factored)
    assert code.rank == int(0.4 * rows * columns / (rows + columns))
    left_out = np.linalg.svd(w @ sqrtm(s).real, compute_uv=False)[code.rank :]
    assert moment.energy(w.astype(np.float32) - code.decode()) <= 1.01 * np.square(left_out).sum()
    assert code.bits() <= 0.4 * 9 * w.size + 16 * (rows + columns)


@pytest.mark.parametrize(
    "quantizer", [RTN(bits=2, group=0), GPTQ(bits=2, group=0), Entropy(bits=1.5)], ids=["rtn", "gptq", "entropy"]
)
def test_a_residual_is_added_to_what_the_quantizer_made(quantizer) -> None:
    model, correct = tiny.opened("llama_tied"), SVD(share=0.4, residual=True)
    alone = quantizer.apply(model, tiny.evidence("llama_tied"))
    both = Recipe((quantizer, correct)).apply(model, tiny.evidence("llama_tied"))
    first = "model.layers.0.self_attn.q_proj.weight"  # nothing before it has drifted
    code, plain, original = (m.codes[first] for m in (both, alone, model))
    assert isinstance(code, Sum)
    assert isinstance(code.base, Separable if isinstance(quantizer, Entropy) else Grid)
    np.testing.assert_array_equal(code.base.decode(), plain.decode())
    errors = [np.linalg.norm(c.decode() - original.decode()) for c in (code, plain)]
    assert errors[0] < 0.8 * errors[1]
    damage = [step.damage[first] for step in both.history]  # both against the original
    assert damage[1] < 0.8 * damage[0]


def test_what_was_lost_is_that_of_the_original_in_walks_of_their_own_too() -> None:
    model, quantizer = tiny.opened("llama_tied"), RTN(bits=2, group=0)
    coded = quantizer.apply(model, tiny.evidence("llama_tied"))
    apart = SVD(share=0.4, residual=True).apply(coded, tiny.evidence("llama_tied"))
    together = Recipe((quantizer, SVD(share=0.4, residual=True))).apply(model, tiny.evidence("llama_tied"))
    first = "model.layers.0.self_attn.q_proj.weight"
    assert isinstance(apart.codes[first], Sum)
    np.testing.assert_array_equal(apart.codes[first].decode(), together.codes[first].decode())
    alone = dataclasses.replace(coded, reference=None)  # as one read from a file
    with pytest.raises(UsageError, match="does not hold the network that it was made from"):
        SVD(residual=True).apply(alone, tiny.evidence("llama_tied"))


def test_it_leaves_what_lost_nothing_and_what_is_a_sum() -> None:
    model, correct = tiny.opened("chain"), SVD(residual=True)
    nothing = apply_jointly([correct], model, tiny.evidence("chain"))
    assert set(nothing.history[0].untouched.values()) == {"nothing was lost of it"}
    twice = Recipe((RTN(bits=2), correct, correct)).apply(model, tiny.evidence("chain"))
    assert set(twice.history[2].untouched.values()) == {"it is a sum already"}
    large = apply_jointly([SVD(rank=12)], model, tiny.evidence("chain")).history[0].untouched
    assert large["0.weight"] == "factors of rank 12 hold more numbers than it"
    small = apply_jointly([SVD(share=0.01)], model, tiny.evidence("chain")).history[0].untouched
    assert set(small.values()) == {"its share is less than rank 1"}


def test_a_pruning_before_or_after() -> None:
    """Factors of a pruned matrix keep its zeros; a correction of what pruning took does not, until it is pruned."""
    model, prune = tiny.opened("chain"), Magnitude(sparsity=0.5)
    factored = Recipe((prune, SVD())).apply(model, tiny.evidence("chain")).codes["0.weight"]
    assert isinstance(factored, Sparse)
    assert (factored.decode() == 0).mean() >= 0.5
    corrected = Recipe((prune, SVD(residual=True))).apply(model, tiny.evidence("chain"))
    code = corrected.codes["0.weight"]
    assert isinstance(code, Sum)
    assert isinstance(code.base, Sparse)
    assert (code.decode() == 0).mean() < 0.1
    again = prune.apply(corrected, tiny.evidence("chain")).codes["0.weight"]
    assert isinstance(again, Sparse)
    assert (again.decode() == 0).mean() == 0.5
