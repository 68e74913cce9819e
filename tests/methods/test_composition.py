"""Methods in any order, on every family: zeros stay zero, integers stay integers, pruning costs no bits."""

import itertools

import numpy as np
import pytest
import tiny

from rarefy.codes import Grid, Sparse
from rarefy.joint import Joint, apply_jointly
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.prune.sparsegpt import SparseGPT
from rarefy.methods.prune.wanda import Wanda
from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN
from rarefy.model import Model
from rarefy.recipe import Recipe

FAMILIES = ("llama_tied", "bert_classifier", "resnet")
METHODS = {
    "rtn": RTN(bits=4, group=16),
    "gptq": GPTQ(bits=4, group=16),
    "prune": Magnitude(sparsity=0.5),
    "n:m": Magnitude(n=2, m=4),
    "wanda": Wanda(n=2, m=4),
    "sparsegpt": SparseGPT(sparsity=0.5, block=16),
    "entropy": Entropy(step=0.5, exclude=("*embed*",)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def start(request) -> tuple[str, Model]:
    return request.param, tiny.opened(request.param)


def coded(model: Model) -> list[str]:
    return sorted({name for step in model.history for name in step.damage})


@pytest.mark.parametrize("order", list(itertools.permutations(("prune", "rtn", "gptq"))), ids=" ".join)
def test_any_order_runs_in_one_walk_and_keeps_the_zeros(start, order: tuple[str, ...]) -> None:
    name, model = start
    made = Recipe(tuple(METHODS[m] for m in order)).apply(model, tiny.evidence(name))
    assert [step.method for step in made.history] == [METHODS[m].name() for m in order]
    assert len(coded(made)) >= 8
    for key in coded(made):
        w = made.codes[key].decode()
        # Pruned first or last, half are zero; pruned between, the second quantizer keeps them so.
        assert (w == 0).sum() >= w.size // 2 - 1
        assert isinstance(made.codes[key], Grid)
    assert not model.history


@pytest.mark.parametrize("prune", ["prune", "n:m", "wanda", "sparsegpt"])
@pytest.mark.parametrize("quantize", ["rtn", "gptq", "entropy"])
def test_prune_then_quantize_keeps_the_zeros_exactly(start, prune: str, quantize: str) -> None:
    name, model = start
    pruned = apply_jointly([METHODS[prune]], model, tiny.evidence(name))
    made = apply_jointly([METHODS[quantize]], pruned, tiny.evidence(name))
    for key in coded(made):
        zero = pruned.codes[key].decode() == 0
        assert isinstance(pruned.codes[key], Sparse) and zero.any()
        assert (made.codes[key].decode()[zero] == 0).all()


@pytest.mark.parametrize("prune", ["prune", "n:m", "wanda"])
@pytest.mark.parametrize("quantize", ["rtn", "gptq"])
def test_quantize_then_prune_keeps_the_integers_and_costs_no_bits(start, prune: str, quantize: str) -> None:
    name, model = start
    grid = apply_jointly([METHODS[quantize]], model, tiny.evidence(name))
    made = apply_jointly([METHODS[prune]], grid, tiny.evidence(name))
    assert made.bits() <= 1.01 * grid.bits()
    for key in coded(made):
        before, after = grid.codes[key], made.codes[key]
        left = after.decode() != 0
        assert isinstance(before, Grid) and isinstance(after, Grid)
        np.testing.assert_array_equal(after.decode()[left], before.decode()[left])
        np.testing.assert_array_equal(after.q[left.reshape(after.q.shape)], before.q[left.reshape(after.q.shape)])


def test_pruning_a_dense_network_costs_no_bits(start) -> None:
    name, model = start
    for sparsity in (0.1, 0.5, 1):
        made = apply_jointly([Magnitude(sparsity=sparsity)], model, tiny.evidence(name))
        assert made.bits() <= 1.01 * model.bits()


def test_quantizing_twice_works_and_the_second_says_its_own_damage(start) -> None:
    name, model = start
    made = Recipe((RTN(bits=8, group=0, scale="F32"), RTN(bits=3, group=0))).apply(model, tiny.evidence(name))
    first, second = (step.damage for step in made.history)
    assert set(first) == set(second) and all(first[key] < 0.01 < second[key] for key in first)
    again = Recipe((GPTQ(bits=3, group=0), GPTQ(bits=3, group=0))).apply(model, tiny.evidence(name))
    assert all(code.bits_per_symbol == 3 for code in again.codes.values() if isinstance(code, Grid))


def test_adjacent_methods_share_a_walk_and_see_one_another(start) -> None:
    name, model = start
    together = Recipe((METHODS["prune"], METHODS["gptq"])).apply(model, tiny.evidence(name))
    assert len(Recipe((METHODS["prune"], METHODS["gptq"])).stages()) == 1
    apart = METHODS["prune"].apply(model, tiny.evidence(name))
    first = coded(together)[0]
    np.testing.assert_array_equal(
        together.codes[first].decode() == 0,
        METHODS["gptq"].apply(apart, tiny.evidence(name)).codes[first].decode() == 0,
    )


def test_the_tied_embedding_is_coded_when_it_is_named() -> None:
    model = tiny.opened("llama_tied")
    key = "model.embed_tokens.weight"
    left = apply_jointly([RTN()], model, tiny.evidence("llama_tied")).history[0].untouched
    assert left == {key: "an embedding; name it with include to code it"}
    made = apply_jointly([RTN(include=("*",))], model, tiny.evidence("llama_tied"))
    assert isinstance(made.codes[key], Grid) and "lm_head.weight" not in made.codes
    module = made.module()
    assert module.lm_head.weight is module.model.embed_tokens.weight
    refused = apply_jointly([GPTQ(include=(key,))], model, tiny.evidence("llama_tied")).history[0]
    assert refused.untouched[key] == "calibration never reached it" and not refused.damage


class Seen(Entropy):
    """Leaves of a site what share of it was zero."""

    def forecast(self, site, g, u) -> dict[str, float]:
        return {"weights": site.weight().size, "zeros": float((site.weight() == 0).mean())}


def test_a_forecast_is_of_what_earlier_methods_leave() -> None:
    joint = Joint((SparseGPT(sparsity=0.5, exclude=("2.weight",)), Seen()), tiny.opened("chain"))
    joint.survey(tiny.evidence("chain"), "walk", seed=0)
    assert joint.forecasts[0] == {}
    assert {key: seen["zeros"] for key, seen in joint.forecasts[1].items()} == {
        "0.weight": 0.5,
        "2.weight": 0,
        "5.weight": 0.5,
    }
