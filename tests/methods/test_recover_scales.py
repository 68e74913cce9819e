"""recover.scales: integers stay, the divergence falls, nothing gets worse, a killed run ends in the same bytes."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from rarefy.codes import Grid
from rarefy.codes.separable import Separable
from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.quantize.rtn import RTN
from rarefy.methods.recover.scales import Scales
from rarefy.model import Model, Step
from rarefy.recipe import Recipe
from rarefy.training import checkpoint, divergence
from rarefy.training.student import Scaled, Student

NAME = "llama_tied"
SHORT = Scales(steps=6, batch=2, rate=0.01)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(3).integers(3, tiny.VOCABULARY, (48, 64))  # six micro-batches of 512 tokens


@pytest.fixture(scope="module")
def coded(data) -> Model:
    return Entropy(bits=2.0).apply(tiny.opened(NAME), Evidence(data))


def raw(model: Model) -> dict[str, tuple]:
    return {key: (code.node(), *(s.symbols.tobytes() for s in code.streams())) for key, code in model.codes.items()}


def kl(model: Model, original: Model, data: np.ndarray) -> float:
    ids = torch.from_numpy(data)
    with torch.no_grad():
        return float(divergence("softmax")(original.module()(ids).logits, model.module()(ids).logits))


def test_integers_stay_and_the_divergence_on_other_data_falls(coded, data) -> None:
    evidence = Evidence(data)
    made = Scales(steps=30, batch=2, rate=0.02).apply(coded, evidence)
    unseen = np.random.default_rng(4).integers(3, tiny.VOCABULARY, (16, 64))
    original = coded.original()
    assert kl(made, original, unseen) < 0.9 * kl(coded, original, unseen)
    moved = 0
    for key, code in made.codes.items():
        before = coded.codes[key]
        if isinstance(code, Separable):
            assert isinstance(before, Separable) and np.array_equal(code.q, before.q)
            assert np.array_equal(code.points.raw(), before.points.raw())
            assert code.bits() < 1.03 * before.bits()
            moved += not np.array_equal(code.rows, before.rows)
    assert moved >= 10 and made.history[-1].damage["model.norm.weight"] > 0
    assert "held-out" in evidence.progress.notes[-1] and evidence.progress.notes[-1].endswith("kept")


def test_what_was_worse_after_training_is_not_kept(coded, data, monkeypatch) -> None:
    def astray(leaves, *_, **__) -> None:
        for leaf in leaves.values():
            leaf.data += 0.5 * torch.rand(leaf.shape)

    monkeypatch.setattr("rarefy.training.train", astray)
    evidence = Evidence(data)
    made = SHORT.apply(coded, evidence)
    assert raw(made) == raw(coded) and not any(made.history[-1].damage.values())
    assert evidence.progress.notes[-1].endswith("no gain, so everything stays as it was")


def test_a_killed_training_ends_in_the_same_bytes(coded, data, monkeypatch) -> None:
    whole = raw(dataclasses.replace(SHORT, steps=14).apply(coded, Evidence(data)))
    evidence, save = Evidence(data), checkpoint.Checkpoint.save

    def dies(*args) -> None:
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        dataclasses.replace(SHORT, steps=14).apply(coded, evidence)
    monkeypatch.undo()
    assert raw(dataclasses.replace(SHORT, steps=14).apply(coded, evidence)) == whole


def test_a_finished_one_is_not_done_again(coded, data, monkeypatch) -> None:
    evidence = Evidence(data, journal=tiny.Memory())
    made = raw(SHORT.apply(coded, evidence))
    monkeypatch.setattr(Scales, "_recovered", None)
    assert raw(SHORT.apply(coded, evidence)) == made


def test_a_size_given_before_is_kept_to(coded, data) -> None:
    from rarefy.files import record
    from rarefy.files.container import overhead

    def size(model: Model) -> int:
        length = sum(len(record.encode(code, model.dtypes[key])) for key, code in model.codes.items())
        return length + overhead(model.codes, 0)

    limit = size(coded)
    tight = dataclasses.replace(coded, history=(Step("quantize.entropy", {"size": limit}),))
    made = SHORT.apply(tight, Evidence(data))
    assert size(made) <= limit and raw(made) != raw(tight)
    assert size(SHORT.apply(coded, Evidence(data))) > limit


@pytest.mark.parametrize("name", ["chain", "resnet", "bert", "bert_classifier", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_gets_nearer(name: str, dtype: str) -> None:
    evidence = tiny.evidence(name, 400 if name in tiny.TOKENS else 96, dtype=dtype)
    recipe = Recipe((Magnitude(sparsity=0.3), RTN(bits=3, group=8), Scales(steps=15, batch=1, rate=0.01)))
    made = recipe.apply(tiny.opened(name), evidence)
    assert evidence.progress.notes[-1].endswith("kept"), evidence.progress.notes
    before = Recipe(recipe.methods[:2]).apply(tiny.opened(name), tiny.evidence(name))
    for key, code in made.codes.items():
        if isinstance(code, Grid):
            assert np.array_equal(code.q, before.codes[key].q)


def test_a_scaled_layer_is_the_layer_of_its_weight(coded) -> None:
    """Values and gradients, against autograd through the rebuilt matrix."""
    torch.manual_seed(0)
    levels = torch.randint(-3, 4, (7, 5)).float()
    x, rows, columns = (torch.rand(n, requires_grad=True) for n in ((2, 3, 5), (7,), (5,)))
    weight = rows[:, None] * levels * columns
    found, wanted = Scaled.apply(x, levels, rows, columns), x @ weight.T
    torch.testing.assert_close(found, wanted)
    g = torch.rand_like(wanted)
    for a, b in zip(
        torch.autograd.grad(found, (x, rows, columns), g),
        torch.autograd.grad(wanted, (x, rows, columns), g),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["llama", "llama_tied", "bert"])
def test_a_student_says_what_its_network_says(name: str) -> None:
    model = Entropy(bits=3.0).apply(tiny.opened(name), tiny.evidence(name))
    ids = torch.from_numpy(tiny.inputs(name))
    with torch.no_grad():
        torch.testing.assert_close(
            Student(model, "cpu", torch.float32)(ids)[0], model.module()(ids)[0], atol=2e-5, rtol=1e-4
        )


def test_what_it_needs_is_said() -> None:
    model = RTN().apply(tiny.opened(NAME), tiny.evidence(NAME))
    with pytest.raises(UsageError, match="one micro-batch"):
        SHORT.apply(model, tiny.evidence(NAME))
    with pytest.raises(UsageError, match="does not hold the network that it was made from"):
        SHORT.apply(dataclasses.replace(model, reference=None), tiny.evidence(NAME))
