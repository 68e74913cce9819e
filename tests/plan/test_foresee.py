"""What is foreseen of a run, against what comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from zoo import ZOO

from rarefy.codes import Dense
from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.measure.divergence import cosine_distance, softmax_kl
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.quantize.rtn import RTN
from rarefy.model import Model
from rarefy.plan import noise
from rarefy.plan.data import calibration
from rarefy.plan.foresee import Foreseen, foresee, split, unseen_data
from rarefy.recipe import Recipe


def foreseen(name: str, recipe: Recipe | Entropy, evidence: Evidence | None = None, **more: Any) -> Foreseen | None:
    recipe = recipe if isinstance(recipe, Recipe) else Recipe((recipe,))
    return foresee(tiny.opened(name), recipe, evidence or tiny.evidence(name, 32), seed=0, **more)


def distance(name: str, one: Model, other: Model, inputs: np.ndarray) -> float:
    """With both networks whole in memory."""
    x = torch.from_numpy(inputs)
    with torch.no_grad():
        a, b = one.module()(x), other.module()(x)
    if name == "bert":
        return float(cosine_distance(a.last_hidden_state.mean(1), b.last_hidden_state.mean(1)).mean())
    a, b = (out if isinstance(out, torch.Tensor) else out.logits for out in (a, b))
    return float(softmax_kl(a, b).mean())


@pytest.mark.parametrize("name", ["llama_tied", "bert", "resnet", "chain"])
def test_noise_costs_what_it_does_to_the_whole_network(name: str) -> None:
    model, evidence = tiny.opened(name), tiny.evidence(name, 5)
    keys = [key for key in model.codes if key.endswith("weight") and len(model.codes[key].shape) > 1][:4]
    made = {key: np.random.default_rng(0).normal(size=model.codes[key].shape).astype(np.float32) for key in keys}
    sizes = {key: 0.02 * (i + 1) for i, key in enumerate(keys)}
    codes = {key: Dense.of(model.codes[key].decode() + sizes[key] * made[key]) for key in keys}
    found = noise.nats(model, evidence, codes, "noise")
    noisy = dataclasses.replace(model, codes={**model.codes, **codes})
    assert found > 1e-6
    assert found == pytest.approx(distance(name, model, noisy, evidence.array()), rel=1e-3)


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """What the last prediction put in place of matrices."""
    seen: dict[str, np.ndarray] = {}
    measured = noise.nats

    def nats(model: Model, evidence: Evidence, noisy: Any, name: str) -> float:
        seen.clear()
        seen.update({key: noisy[key].decode() for key in noisy})
        return measured(model, evidence, noisy, name)

    monkeypatch.setattr(noise, "nats", nats)
    return seen


def test_zeros_of_a_pruning_are_not_disturbed(disturbed: dict[str, np.ndarray]) -> None:
    pruned = Magnitude(0.75).apply(tiny.opened("llama"), Evidence())
    foresee(pruned, Recipe((Entropy(bits=4),)), tiny.evidence("llama", 32), seed=0)
    layers = {key: values for key, values in disturbed.items() if "layers" in key}
    assert len(layers) == 14
    for key, values in layers.items():
        original = pruned.codes[key].decode()
        zero = original == 0
        assert zero.mean() == pytest.approx(0.75, abs=0.01)
        assert not values[zero].any()
        assert (values != original)[~zero].all()


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_noise_is_as_large_as_what_coding_leaves(name: str, disturbed: dict[str, np.ndarray]) -> None:
    """Matrices that lie transposed too, as GPT-2's do."""
    model, evidence = Model.from_module(ZOO[name].build()), tiny.evidence("llama", 64)
    for bits in (2, 5):
        found = foresee(model, Recipe((Entropy(bits=bits),)), evidence, seed=0)
        assert found is not None
        made = Entropy(step=found.step).apply(model, evidence)
        ratios = []
        for key, values in disturbed.items():
            original = model.codes[key].decode()
            ratios.append(np.linalg.norm(values - original) / np.linalg.norm(made.codes[key].decode() - original))
        assert np.median(ratios) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("name", "limit"), [("llama", 0.05), ("llama_tied", 0.2), ("bert", 0.02)])
def test_a_divergence_is_met(name: str, limit: float) -> None:
    evidence = tiny.evidence(name, 64)
    found = foreseen(name, Entropy(), evidence, max_kl=limit)
    assert found is not None
    assert found.nats == pytest.approx(limit, rel=0.02)
    model = tiny.opened(name)
    made = Entropy(step=found.step).apply(model, evidence)
    fresh = np.random.default_rng(9).integers(3, tiny.VOCABULARY, (64, 12))
    assert distance(name, model, made, fresh) == pytest.approx(limit, rel=0.35)


def test_less_divergence_takes_more_bytes() -> None:
    far, near = (foreseen("llama", Entropy(), max_kl=limit) for limit in (0.1, 0.01))
    assert far is not None
    assert near is not None
    assert near.step < far.step
    assert near.bytes > far.bytes
    assert far.claimed
    assert not near.claimed
    assert far == foreseen("llama", Entropy(step=far.step))


def test_no_step_is_wider_than_is_of_use() -> None:
    found = foreseen("llama", Entropy(), max_kl=1e4)
    assert found is not None
    assert found.nats is not None
    assert found.nats < 1e4


def test_other_recipes_are_not_foreseen() -> None:
    assert foreseen("llama", Recipe((RTN(),))) is None
    both = Recipe((Magnitude(sparsity=0.5), Entropy()))
    found = foreseen("llama", both)
    assert found is not None
    assert found.nats is None
    with pytest.raises(UsageError, match="other methods"):
        foreseen("llama", both, max_kl=0.1)
    few = foreseen("llama", Entropy(), tiny.evidence("llama", 3))
    assert few is not None
    assert few.nats is None


@pytest.mark.parametrize(("n", "held"), [(3, 0), (4, 1), (64, 8), (79, 8), (30, 7)])
def test_some_of_the_data_are_held_back(n: int, held: int) -> None:
    ids = np.arange(2 * n).reshape(n, 2)
    seen, unseen = split(Evidence(ids))
    rest = np.zeros((0, 2), int) if unseen is None else unseen.array()
    assert len(rest) == held
    np.testing.assert_array_equal(np.concatenate([seen.array(), rest]), ids)


def test_examples_are_held_back_all_over() -> None:
    seen, unseen = split(Evidence(np.arange(40, dtype=np.float32)[:, None]))
    assert unseen is not None
    np.testing.assert_array_equal(unseen.array()[:, 0], np.arange(3, 40, 4))
    assert len(seen.array()) == 30


def test_the_divergence_is_of_the_data_that_are_given() -> None:
    """The survey sees all of the others then, so the step is another one than where some are held back."""
    evidence, other = tiny.evidence("llama", 32), np.random.default_rng(5).integers(3, tiny.VOCABULARY, (4, 12))
    found = foreseen("llama", Entropy(bits=4), evidence, unseen=other)
    alone = foreseen("llama", Entropy(bits=4), evidence)
    assert found is not None and alone is not None
    assert "(4 x 12)" in found.rests
    assert found.step != alone.step
    assert found.nats != foreseen("llama", Entropy(bits=4), evidence, unseen=other[:2]).nats


def test_what_is_predicted_of_is_no_calibration_text(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(3, tiny.VOCABULARY, (6, 40))
    for name, x in (("one", ids), ("other", ids[3:]), ("new", ids[:, ::-1] + 0)):
        np.savez(tmp_path / f"{name}.npz", x=x)
    model, recipe = tiny.opened("llama"), Recipe((Entropy(),))
    data = calibration(model, [tmp_path / "one.npz"], length=40)
    with pytest.raises(UsageError, match="calibrated"):
        unseen_data(model, recipe, data, [tmp_path / "one.npz"], [tmp_path / "other.npz"], 40)
    found = unseen_data(model, recipe, data, [tmp_path / "one.npz"], [tmp_path / "new.npz"], 40)
    assert found is not None
    np.testing.assert_array_equal(found.inputs, ids[:, ::-1])
    assert unseen_data(model, recipe, data, [tmp_path / "one.npz"], [], 40) is None
    assert unseen_data(model, Recipe((RTN(),)), data, [], [], 40) is None
