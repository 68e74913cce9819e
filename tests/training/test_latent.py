"""Training behind codes: the loss sees what is stored, killed runs end in the same bytes, what is not taken stays."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from rarefy.errors import RarefyError, UsageError
from rarefy.evidence import Evidence
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.prune.surgery import Surgery
from rarefy.methods.quantize.entropy_aware import EntropyAware
from rarefy.methods.quantize.qat import QAT
from rarefy.model import Model
from rarefy.recipe import Recipe
from rarefy.training import checkpoint, latent

METHODS = [
    EntropyAware(size=700, epochs=12.0, batch=16),
    QAT(bits=3, epochs=12.0, batch=16),
    Surgery(c=0.0, gamma=0.5, epochs=12.0, batch=16),
]


@pytest.fixture(params=METHODS, ids=lambda method: method.name())
def method(request):
    return request.param


def labelled(n: int = 64, **more) -> Evidence:
    """Examples whose class a linear map of them says."""
    x = tiny.inputs("chain", n)
    return Evidence(x, labels=(x @ np.random.default_rng(5).normal(size=(20, 5))).argmax(1), **more)


def unlimited(method):
    """Without a size, which may cost the least weights."""
    return dataclasses.replace(method, size=0) if isinstance(method, EntropyAware) else method


def raw(model: Model) -> dict[str, tuple]:
    return {key: (code.node(), *(s.symbols.tobytes() for s in code.streams())) for key, code in model.codes.items()}


def test_a_killed_training_ends_in_the_same_bytes(method, monkeypatch) -> None:
    model = tiny.opened("chain")
    whole = raw(method.apply(model, labelled(), seed=2))
    evidence, save = labelled(), checkpoint.Checkpoint.save

    def dies(self, step: int, tensors) -> None:
        save(self, step, tensors)
        if step >= 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        method.apply(model, evidence, seed=2)
    monkeypatch.undo()
    assert raw(method.apply(model, evidence, seed=2)) == whole


def test_what_is_trained_is_what_is_stored(method, monkeypatch) -> None:
    """The network of the last step computes with the very weights that its codes decode to."""
    networks = []
    make = latent.Network.__init__

    def see(self, *args) -> None:
        make(self, *args)
        networks.append(self)

    monkeypatch.setattr(latent.Network, "__init__", see)
    made = unlimited(method).apply(tiny.opened("chain"), labelled())
    with torch.no_grad():
        for key, value in networks[0].weights().items():
            np.testing.assert_array_equal(made.codes[key].decode(), value.numpy(), err_msg=key)


def test_labels_are_learnt(method) -> None:
    evidence = labelled(256)
    model = tiny.opened("chain")
    method = dataclasses.replace(method, soft=0.0, epochs=30.0, rate=0.01)

    def right(model: Model) -> float:
        with torch.no_grad():
            return float(
                (model.module()(torch.from_numpy(evidence.array())).argmax(1).numpy() == evidence.labels).mean()
            )

    assert right(model) < 0.5 and right(method.apply(model, evidence)) > 0.7


def test_zeros_of_a_step_before_stay(method) -> None:
    model, evidence = tiny.opened("chain"), labelled()
    pruned = Magnitude(sparsity=0.5).apply(model, evidence)
    made = Recipe((Magnitude(sparsity=0.5), method)).apply(model, evidence)
    for key in ("0.weight", "2.weight", "5.weight"):
        assert not np.any(made.codes[key].decode()[pruned.codes[key].decode() == 0]), key
    assert made.history[-1].damage["0.weight"] > 0


def test_what_is_excluded_is_not_trained(method) -> None:
    model = tiny.opened("chain")
    made = dataclasses.replace(unlimited(method), exclude=("0.*",)).apply(model, labelled())
    assert made.history[-1].untouched == {"0.weight": "excluded", "0.bias": "excluded"}
    assert made.codes["0.weight"] is model.codes["0.weight"] and made.codes["2.weight"] is not model.codes["2.weight"]
    assert set(made.history[-1].damage) == {"2.weight", "2.bias", "5.weight", "5.bias"}


def test_what_is_missing_is_said(method) -> None:
    with pytest.raises(UsageError, match="training needs labels"):
        dataclasses.replace(method, soft=0.5).apply(tiny.opened("chain"), tiny.evidence("chain"))
    with pytest.raises(UsageError, match="only images can be augmented"):
        dataclasses.replace(method, augment="shift").apply(tiny.opened("chain"), labelled())


def test_a_loss_that_is_no_number_is_said(method) -> None:
    evidence = labelled()
    evidence.array()[3, 2] = np.inf
    with pytest.raises(RarefyError, match="the loss is not a number in step"):
        dataclasses.replace(method, soft=0.0).apply(tiny.opened("chain"), evidence)


def test_what_it_takes_in_memory_is_said(method) -> None:
    model = tiny.opened("chain")
    few, many = (method.memory(model, labelled(n)) for n in (1, 16))
    assert many > few > latent.BYTES * model.weights
