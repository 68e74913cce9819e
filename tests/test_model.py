"""The network as Rarefy holds it: frozen, shared, lazy, tied."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from rarefy.codes import Dense
from rarefy.errors import FormatError, UsageError
from rarefy.model import LazyCodes, Model, Step, dense_codes, shape_of
from rarefy.skeletons import ModuleSkeleton


def first(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.parametrize("name", [*tiny.NETWORKS, "strange"])
@torch.no_grad()
def test_a_module_comes_back_and_stays_as_it_was(name: str) -> None:
    net = tiny.build(name)
    x = torch.from_numpy(tiny.inputs(name))
    before, parameters = first(net(x)), dict(net.named_parameters())
    model = Model.from_module(net)
    module = model.module()
    torch.testing.assert_close(first(module(x)), before, rtol=0, atol=0)
    assert not any(p is q for p in module.parameters() for q in net.parameters())
    for p in module.parameters():
        p.fill_(0)
    torch.testing.assert_close(first(net(x)), before, rtol=0, atol=0)
    assert all(parameter is dict(net.named_parameters())[key] for key, parameter in parameters.items())
    torch.testing.assert_close(first(model.module()(x)), before, rtol=0, atol=0)


def test_weights_are_unique_parameters_and_buffers_are_none() -> None:
    net = tiny.build("torch_resnet")
    model = Model.from_module(net)
    assert model.weights == sum(p.numel() for p in net.parameters())
    buffers = {key for key in model.codes if model.is_buffer(key)}
    assert buffers == set(dict(net.named_buffers()))
    tied, free = tiny.opened("llama_tied"), tiny.opened("llama")
    assert free.weights - tied.weights == 64 * 32
    assert "lm_head.weight" not in tied.codes and tied.keys["lm_head.weight"] == "model.embed_tokens.weight"


def test_tied_names_are_one_tensor() -> None:
    model = tiny.opened("llama_tied")
    made = model.tensors(["lm_head.weight", "model.embed_tokens.weight", "not.there"])
    assert made["lm_head.weight"] is made["model.embed_tokens.weight"] and len(made) == 2
    module = model.module()
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_a_tie_whose_values_differ_is_refused() -> None:
    net = tiny.build("llama_tied")
    state = {key: value.clone() for key, value in net.state_dict().items()}
    skeleton = ModuleSkeleton(net)

    def opened() -> Model:
        codes = dense_codes(state)
        return Model.of(skeleton, codes, {key: code.dtype.name for key, code in codes.items()}, "here")

    assert "lm_head.weight" not in opened().codes
    state["lm_head.weight"][3, 4] += 1
    with pytest.raises(FormatError, match="lm_head.weight and model.embed_tokens.weight differ.*tie_word_embeddings"):
        opened()
    del state["model.embed_tokens.weight"]
    assert "lm_head.weight" in opened().codes


def test_a_step_shares_what_it_leaves() -> None:
    model = tiny.opened("chain")
    new = {"0.weight": Dense.of(np.zeros((24, 20), np.float32))}
    made = model.with_codes(new, Step("m", {}))
    assert made.codes["0.bias"]._load is model.codes["0.bias"]._load
    assert made.codes["0.weight"] is new["0.weight"] and model.codes["0.weight"].decode().any()
    assert list(made.codes) == list(model.codes) and [step.method for step in made.history] == ["m"]
    with pytest.raises(UsageError, match="the model has no tensor x"):
        model.with_codes({"x": new["0.weight"]}, Step("m", {}))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.history = ()


def test_lazy_codes_are_read_when_asked_for_and_not_before() -> None:
    read: list[str] = []
    codes = LazyCodes(lambda key: (read.append(key), Dense.of(np.ones(3)))[1], {"a": (3,), "b": (3,)})
    assert "a" in codes and "c" not in codes and list(codes) == ["a", "b"] and len(codes) == 2
    assert shape_of(LazyCodes.selected(codes, ["b"]), "b") == (3,) and not read
    model = dataclasses.replace(tiny.opened("chain"), codes=codes)
    made = model.with_codes({"a": Dense.of(np.ones(4))}, Step("m", {}))
    assert shape_of(made.codes, "b") == (3,) and shape_of(made.codes, "a") == (4,) and "b" in made.codes and not read
    assert codes["b"].shape == (3,) and read == ["b"]
    with pytest.raises(KeyError):
        codes["c"]


def test_scalars_empty_tensors_and_every_type() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.tensor(2.5))
            self.empty = nn.Parameter(torch.zeros(0, 4))
            self.short = nn.Parameter(torch.randn(3, 2).bfloat16())
            self.turned = nn.Parameter(torch.randn(4, 3).T)
            self.register_buffer("count", torch.tensor(2**40))
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("scratch", torch.ones(2), persistent=False)

    net = Net()
    model = Model.from_module(net)
    assert set(model.codes) == {"scalar", "empty", "short", "turned", "count", "mask"} and model.weights == 1 + 6 + 12
    module = model.module()
    for key, value in net.state_dict().items():
        assert torch.equal(module.state_dict()[key], value.float() if value.is_floating_point() else value), key
    assert model.module(dtype=torch.bfloat16).short.dtype == torch.bfloat16
    assert torch.equal(module.scratch, torch.ones(2))


def test_a_type_that_cannot_be_stored_is_one_line() -> None:
    with pytest.raises(UsageError, match="x has element type torch.complex64: Rarefy does not store it"):
        dense_codes({"x": torch.zeros(2, dtype=torch.complex64)})
