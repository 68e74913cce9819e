"""Segment by segment is the whole network; what is no chain is one segment; nothing is left out unnamed."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from rarefy.families import Segments, family_of, outside
from rarefy.families.values import NotAChain, model_inputs
from rarefy.model import Model

BLOCKS = {"resnet": 4, "resnet_base": 4, "torch_resnet": 4, "chain": 6, "t5": 4, "bart": 4}


def first(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def probed(name: str, net: nn.Module) -> tuple[Model, Segments, object]:
    model = Model.from_module(net)
    segments = Segments(model)
    given = model_inputs(segments.module, torch.from_numpy(tiny.inputs(name)))
    with torch.no_grad():
        segments.probe(model.tensors(segments.tensor_names(len(segments) - 1)), given)
    return model, segments, given


@torch.no_grad()
def run(model: Model, segments: Segments, given) -> torch.Tensor:
    """The output, each segment with nothing but its own tensors."""
    tensors = [model.tensors(segments.tensor_names(i)) for i in range(len(segments))]
    if not segments.blocks:
        return first(segments.whole(tensors[0], given))
    value, calls = segments.head(tensors[0], given)
    for i in range(1, len(segments)):
        value = segments.run(i, tensors[i], given, value, calls, check=True)
    return first(value)


@pytest.mark.parametrize("name", [*tiny.NETWORKS, *tiny.TWO_STACKS])
def test_segments_make_the_networks_output(name: str) -> None:
    net = tiny.build(name)
    model, segments, given = probed(name, net)
    assert len(segments.blocks) == BLOCKS.get(name, 2) and not segments.reason
    with torch.no_grad():
        expected = first(net(*given[0], **given[1]))
    torch.testing.assert_close(run(model, segments, given), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [*tiny.NETWORKS, *tiny.TWO_STACKS])
def test_every_tensor_and_every_site_has_its_segment(name: str) -> None:
    _model, segments, _ = probed(name, tiny.build(name))
    needed = {key for i in range(len(segments)) for key in segments.tensor_names(i)}
    assert needed == set(segments.module.state_dict())
    places = [place for found in segments.places() for place in found]
    matrices = {n for n, p in segments.module.named_parameters() if p.dim() >= 2}
    assert {place.parameter for place in places} | set(outside(segments.module, segments.ties)) == matrices
    assert len({place.parameter for place in places}) == len(places)
    for i, found in enumerate(segments.places()):
        names = segments.tensor_names(i)
        assert {place.parameter for place in found} <= {segments.ties.get(name, name) for name in names}


@pytest.mark.parametrize(
    ("name", "family", "law"),
    [
        ("llama", "llama", "softmax"),
        ("smollm3", "smollm3", "softmax"),
        ("bert", "bert", "embedding"),
        ("bert_classifier", "bert", "softmax"),
        ("resnet", "resnet", "softmax"),
        ("resnet_base", "resnet", "embedding"),
        ("torch_resnet", "resnet", "softmax"),
        ("chain", "chain", "softmax"),
    ],
)
def test_family_and_law(name: str, family: str, law: str) -> None:
    net = tiny.build(name)
    found = family_of(net)
    assert found is not None and (found.name(net), found.law(net)) == (family, law)


def test_a_tied_head_is_one_site_with_two_uses() -> None:
    _, segments, _ = probed("llama_tied", tiny.build("llama_tied"))
    place = segments.places()[0][0]
    assert place.kind == "embedding" and place.modules == ("model.embed_tokens", "lm_head")
    assert "lm_head.weight" not in [p.parameter for found in segments.places() for p in found]


def test_arguments_of_blocks_are_the_real_ones() -> None:
    """Sliding windows, rotary positions: each block is called with what the network itself gives it."""
    net = tiny.build("mistral")
    model, segments, given = probed("mistral", net)
    seen = []
    for layer in net.model.layers:
        layer.register_forward_pre_hook(lambda _layer, _args, kwargs: seen.append(kwargs), with_kwargs=True)
    with torch.no_grad():
        net(*given[0], **given[1])
        _, calls = segments.head(model.tensors(segments.tensor_names(0)), given)
    for call, kwargs in zip(calls, seen, strict=True):
        assert set(call.kwargs) >= set(kwargs) - {"hidden_states"}
        for one, other in zip(call.kwargs["position_embeddings"], kwargs["position_embeddings"], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        if kwargs.get("attention_mask") is not None:
            assert torch.equal(call.kwargs["attention_mask"], kwargs["attention_mask"])


def test_something_between_the_blocks_makes_one_segment() -> None:
    net = tiny.build("between")
    model, segments, given = probed("between", net)
    assert segments.names == ["the whole network"]
    assert segments.reason == "its blocks do not feed one another"
    torch.testing.assert_close(run(model, segments, given), net(*given[0]), rtol=0, atol=0)


def test_a_connection_past_the_blocks_is_found_at_the_end() -> None:
    model, segments, given = probed("skipping", tiny.build("skipping"))
    with pytest.raises(NotAChain, match="takes more than the last one's output"):
        run(model, segments, given)


def test_a_block_that_gives_a_tuple_is_found() -> None:
    model, segments, given = probed("pair", tiny.build("pair"))
    with pytest.raises(NotAChain, match="1 returns a tuple"):
        run(model, segments, given)


def test_arguments_made_of_earlier_blocks_are_found() -> None:
    class Layer(nn.Linear):
        def forward(self, x: torch.Tensor, early: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + early

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Sequential(Layer(20, 20), Layer(20, 20))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            early = self.layer1[0](x, x)
            return self.layer1[1](early, 2 * early)

    _, segments, _ = probed("chain", Net())
    assert segments.reason == "its blocks are given more than the running value of the one before"


def test_weights_used_without_their_module_are_no_chain() -> None:
    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x @ self[2].weight)

    net = Net(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)).eval()
    model, segments, given = probed("chain", net)
    assert segments.reason == "a part of it uses weights of another"
    torch.testing.assert_close(run(model, segments, given), net(*given[0]), rtol=0, atol=0)


def test_a_layer_run_twice_is_no_chain() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(20, 20), relu, nn.Linear(20, 20), relu, nn.Linear(20, 5)).eval()
    model, segments, given = probed("chain", net)
    assert segments.reason == "its blocks do not run once each and in order"
    torch.testing.assert_close(run(model, segments, given), net(*given[0]), rtol=0, atol=0)


def test_what_no_layer_owns_is_named() -> None:
    net = tiny.build("strange")
    unknown = outside(net, {})
    assert unknown == {
        "mix": "Strange",
        "lstm.weight_ih_l0": "LSTM",
        "lstm.weight_hh_l0": "LSTM",
        "normed.parametrizations.weight.original0": "ParametrizationList",
        "normed.parametrizations.weight.original1": "ParametrizationList",
    }
    model, segments, given = probed("chain", net)
    assert segments.reason == "no family knows Strange"
    np.testing.assert_array_equal(run(model, segments, given), net(*given[0]).detach())


def test_stand_ins_leave_no_trace() -> None:
    _, segments, _ = probed("torch_resnet", tiny.build("torch_resnet"))
    assert all("forward" not in vars(segments.module.get_submodule(path)) for path in segments.blocks)
    assert all(not layer._forward_pre_hooks for layer in segments.module.modules())
