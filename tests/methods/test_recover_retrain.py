"""recover.retrain: zeros and shared weights stay, labels and the original teach, a killed run ends in the same."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from sklearn.datasets import load_digits
from torch import nn

from rarefy.codes import Codebook, Sparse
from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.kmeans import KMeans
from rarefy.methods.recover.retrain import Retrain
from rarefy.model import Model
from rarefy.recipe import Recipe
from rarefy.training import checkpoint

SHORT = Retrain(epochs=1, batch=64, rate=0.02, soft=0.0, augment="shift")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real digits, (1797, 1, 8, 8), and their labels."""
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y.astype(np.int64)


@pytest.fixture(scope="module")
def seen(digits) -> Evidence:
    return Evidence(digits[0][:1200], labels=digits[1][:1200])


@pytest.fixture(scope="module")
def trained(seen) -> Model:
    """A LeNet-300-100 of that size, trained by the method itself."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 20), nn.ReLU(), nn.Linear(20, 10))
    made = Retrain(epochs=20, batch=32, rate=0.03, soft=0.0).apply(Model.from_module(net.eval()), seen)
    return Model.from_module(made.module())


def error(model: Model, digits) -> float:
    with torch.no_grad():
        return float((model.module()(torch.from_numpy(digits[0][1200:])).argmax(1).numpy() != digits[1][1200:]).mean())


def raw(model: Model) -> dict[str, tuple]:
    return {key: (code.node(), *(s.symbols.tobytes() for s in code.streams())) for key, code in model.codes.items()}


def test_it_trains_a_network_from_labels(trained, digits) -> None:
    assert error(trained, digits) < 0.12


@pytest.mark.parametrize("soft", [0.0, 0.5, 1.0])
def test_deep_compression_keeps_the_accuracy(trained, seen, digits, soft: float) -> None:
    """Two rounds of pruning, weight sharing, and training after each."""
    learn = Retrain(epochs=6, batch=32, rate=0.02, soft=soft, temperature=2.0)
    shares = Recipe((Magnitude(sparsity=0.7), learn, Magnitude(sparsity=0.85), learn, KMeans(bits=4)))
    shared = shares.apply(trained, seen)
    made = learn.apply(shared, seen)
    bare = Recipe((Magnitude(sparsity=0.85), KMeans(bits=4))).apply(trained, seen)
    assert error(made, digits) < error(trained, digits) + 0.03 < error(bare, digits)
    for key in ("1.weight", "3.weight", "5.weight"):
        code, before = made.codes[key], shared.codes[key]
        assert isinstance(code, Sparse) and isinstance(before, Sparse) and np.array_equal(code.keep, before.keep)
        assert np.mean(code.keep) == pytest.approx(0.15, abs=0.01)
        assert isinstance(code.inner, Codebook) and not np.array_equal(code.inner.values, before.inner.values)
        assert np.unique(code.decode()[code.keep]).size <= 16
        assert made.history[-1].damage[key] > 0
    assert "nats an example" in seen.progress.notes[-1]


@pytest.mark.parametrize("settings", [{}, {"soft": 0.5}, {"soft": 1.0, "augment": "none"}])
def test_a_killed_training_ends_in_the_same_bytes(trained, seen, settings, monkeypatch) -> None:
    method = dataclasses.replace(SHORT, steps=25, **settings)
    pruned = Magnitude(sparsity=0.8).apply(trained, seen)
    evidence, save = Evidence(seen.inputs, labels=seen.labels), checkpoint.Checkpoint.save

    def dies(*args) -> None:
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        method.apply(pruned, evidence)
    monkeypatch.undo()
    whole = raw(method.apply(pruned, Evidence(seen.inputs, labels=seen.labels)))
    assert raw(method.apply(pruned, evidence)) == whole != raw(pruned)


@pytest.mark.parametrize("name", ["llama_tied", "bert", "resnet"])
def test_every_family_follows_its_original(name: str) -> None:
    evidence = tiny.evidence(name, 64)
    pruned = Magnitude(sparsity=0.4).apply(tiny.opened(name), evidence)
    made = Retrain(epochs=4, batch=16, rate=0.02).apply(pruned, evidence)
    first, last = (float(word) for word in evidence.progress.notes[-1].split(": ")[1].split(" nats")[0].split(" to "))
    assert last < 0.8 * first
    for code in made.codes.values():
        if isinstance(code, Sparse):
            assert not code.decode()[~code.keep].any()


def test_steps_stand_in_place_of_epochs(trained, seen) -> None:
    assert dataclasses.replace(SHORT, steps=7).training(40, mixed=False).steps == 7
    assert dataclasses.replace(SHORT, epochs=2.5).training(40, mixed=False).steps == 100


def test_what_it_needs_is_said(trained, seen) -> None:
    bare = Evidence(seen.inputs)
    with pytest.raises(UsageError, match="labels.*soft=1"):
        SHORT.apply(trained, bare)
    with pytest.raises(UsageError, match="does not hold the network that it was made from"):
        pruned = Magnitude().apply(trained, bare)
        Retrain().apply(dataclasses.replace(pruned, reference=None), bare)
    with pytest.raises(UsageError, match="only images"):
        dataclasses.replace(SHORT, soft=1.0).apply(
            Magnitude().apply(tiny.opened("chain"), bare), tiny.evidence("chain")
        )
