"""An encoder and a decoder are one chain: the encoder's states reach every decoder block, and gradients find back."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from zoo import ZOO

import rarefy
from rarefy.evidence import Evidence, SecondMoment, Visited, walk
from rarefy.families import Segments, carried
from rarefy.families.values import NotAChain, model_inputs
from rarefy.joint import apply_jointly
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.model import Model
from rarefy.progress import Silent

NETWORKS = ("t5", "whisper", "bart")
BLOCKS = {"t5": "{}.block.{}", "whisper": "model.{}.layers.{}", "bart": "model.{}.layers.{}"}


def build(name: str) -> tuple[nn.Module, np.ndarray]:
    return ZOO[name].build(), ZOO[name].inputs()


def probed(net: nn.Module, inputs: np.ndarray) -> tuple[Model, Segments, object]:
    model = Model.from_module(net)
    segments = Segments(model)
    given = model_inputs(segments.module, torch.from_numpy(inputs))
    with torch.no_grad():
        segments.probe(model.tensors(segments.tensor_names(len(segments) - 1)), given)
    return model, segments, given


@pytest.mark.parametrize("name", NETWORKS)
def test_each_block_of_both_stacks_is_a_segment(name: str) -> None:
    _, segments, _ = probed(*build(name))
    encoder, decoder = ([BLOCKS[name].format(side, i) for i in range(2)] for side in ("encoder", "decoder"))
    assert segments.names == ["input", *encoder, "between", *decoder, "output"]
    for name, places in zip(segments.names, segments.places(), strict=True):
        if name in segments.blocks:
            assert places and all(place.parameter.startswith(f"{name}.") for place in places)
        else:
            assert not any(place.parameter.startswith(tuple(segments.blocks)) for place in places)


@pytest.mark.parametrize(
    ("name", "shared", "at"),
    [
        ("t5", "shared.weight", 0),
        ("bart", "model.shared.weight", 0),
        ("whisper", "model.decoder.embed_tokens.weight", 3),
    ],
)
def test_a_shared_embedding_is_a_site_of_the_first_segment_that_uses_it(name: str, shared: str, at: int) -> None:
    _, segments, _ = probed(*build(name))
    (place,) = (place for places in segments.places() for place in places if place.parameter == shared)
    assert place in segments.places()[at]
    used = [segments.names[segments.index_of(path)] for path in place.modules if not path.endswith("shared")]
    assert used == (["between", "output"] if name == "whisper" else ["input", "between", "output"])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_the_segments_are_those_of_the_whole_network(name: str) -> None:
    """Of every weight, and of the encoder's states, which each decoder block adds to."""
    net, inputs = build(name)
    model, segments, given = probed(net, inputs)
    for parameter in net.parameters():
        parameter.requires_grad_()
    out = net(*given[0], **given[1])
    out.encoder_last_hidden_state.retain_grad()
    weighing = torch.randn(out.logits.shape, generator=torch.Generator().manual_seed(1))
    out.logits.backward(weighing)
    owners = {id(parameter): key for key, parameter in net.named_parameters()}
    expected = {key: parameter.grad for key, parameter in net.named_parameters()}

    tensors = [model.tensors(segments.tensor_names(i)) for i in range(len(segments))]
    with torch.no_grad():
        value, calls = segments.head(tensors[0], given)
        values = [value]
        for i in range(1, len(segments) - 1):
            values.append(segments.run(i, tensors[i], given, values[-1], calls))
    names = {key: owners[id(p)] for key, p in net.named_parameters(remove_duplicate=False)}
    found: dict[str, torch.Tensor] = {}
    gradient, reached = weighing, {}
    for i in reversed(range(len(segments))):
        leaves = {names[key]: tensor.requires_grad_() for key, tensor in tensors[i].items() if key in names}
        held = {key: leaves[names[key]] if key in names else tensor for key, tensor in tensors[i].items()}
        if i == 0:
            segments.head(held, given)[0].backward(gradient)
        else:
            entering = values[i - 1].clone().requires_grad_()
            out_i = segments.run(i, held, given, entering, calls)
            (out_i.logits if i == len(segments) - 1 else out_i).backward(gradient)
            gradient = reached[i] = entering.grad
        for key, leaf in leaves.items():
            if leaf.grad is not None:
                found[key] = found.get(key, 0) + leaf.grad
                leaf.grad = None
    for key, value in expected.items():
        assert (value is None) == (key not in found), key
        if value is not None:
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=key)
    first = segments.names.index("between") + 1
    _, states = carried.part(reached[first], calls[2].shapes)
    torch.testing.assert_close(states, out.encoder_last_hidden_state.grad, rtol=1e-4, atol=1e-5)


def test_a_bias_that_the_first_block_makes_is_made_by_its_coded_weights() -> None:
    model, segments, given = probed(*build("t5"))
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    net, _ = build("t5")
    with torch.no_grad():
        before = net(*given[0], **given[1]).logits
        net.get_parameter(name).mul_(30)
        changed = {**model.tensors(segments.tensor_names(1)), name: net.get_parameter(name)}
        value, calls = segments.head(model.tensors(segments.tensor_names(0)), given)
        for i in range(1, len(segments)):
            tensors = changed if i == 1 else model.tensors(segments.tensor_names(i))
            value = segments.run(i, tensors, given, value, calls)
        torch.testing.assert_close(value.logits, net(*given[0], **given[1]).logits, rtol=0, atol=0)
        assert not torch.allclose(value.logits, before, atol=1e-2)


def test_calls_hold_nothing_of_the_running_value() -> None:
    """They are kept for every micro-batch."""
    model, segments, given = probed(*build("t5"))
    _, calls = segments.head(model.tensors(segments.tensor_names(0)), given)
    states, bias = (6, 6, 32), (1, 4, 6, 6)
    assert [call.shapes for call in calls] == [(), (states, bias), (states, states), (states, bias, states, bias)]
    for call in calls:
        held = [leaf for leaf in (*call.args, *call.kwargs.values()) if isinstance(leaf, torch.Tensor)]
        assert not any(tensor.is_floating_point() for tensor in held)


def test_batches_of_other_sizes_go_the_same_way() -> None:
    net, inputs = build("bart")
    model, segments, _ = probed(net, inputs)
    given = model_inputs(segments.module, torch.from_numpy(inputs[:2, :8]))
    with torch.no_grad():
        value, calls = segments.head(model.tensors(segments.tensor_names(0)), given)
        for i in range(1, len(segments)):
            value = segments.run(i, model.tensors(segments.tensor_names(i)), given, value, calls, check=True)
        torch.testing.assert_close(value.logits, net(*given[0], **given[1]).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_it_computes_in_bfloat16(name: str) -> None:
    evidence = Evidence(tiny.inputs(name), progress=Silent(), dtype="bfloat16")
    made = apply_jointly([GPTQ(bits=8)], tiny.opened(name), evidence)
    assert evidence.progress.notes == []
    assert len(made.history[-1].damage) > 20


@pytest.mark.parametrize("name", NETWORKS)
def test_recipes_hold_one_block_at_a_time(name: str, tmp_path: Path) -> None:
    net, inputs = build(name)
    net.save_pretrained(tmp_path / "network")
    np.savez(tmp_path / "data.npz", x=inputs)
    recipe = ["quantize.gptq:bits=4", "quantize.entropy:bits=3"]
    rarefy.compress(tmp_path / "network", tmp_path / "out", recipe, data=[tmp_path / "data.npz"], threads=1)
    evidence = Evidence(inputs, progress=Silent())
    seen: list[list[str]] = []

    def visit(sites: list, made: object) -> Visited:
        seen.append([site.name for site in sites])
        return Visited({})

    walk(rarefy.open(tmp_path / "out"), evidence, frozenset({SecondMoment()}), visit, "walk")
    assert evidence.progress.notes == []
    assert len(seen) == 7 and all(seen[i] for i in (1, 2, 4, 5))


class Both(nn.Module):
    """A hand-written encoder and decoder of vectors. takes: how it departs from a chain of two."""

    def __init__(self, takes: str = "") -> None:
        super().__init__()
        self.config = types.SimpleNamespace(is_encoder_decoder=takes != "unsaid", model_type="both")
        self.takes = takes
        self.start = nn.Linear(20, 20)
        self.encoder = nn.ModuleList(nn.Linear(20, 20) for _ in range(2))
        self.decoder = nn.ModuleList(Attending() for _ in range(2))
        self.out = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.encoder[0](self.start(x))
        states = self.encoder[1](early)
        y = x + early if self.takes == "early" else x
        y = self.start(y) if self.takes == "start again" else y
        given: object = states.double() if self.takes == "double" else states
        given = types.MappingProxyType({"states": states}) if self.takes == "in a mapping" else given
        y = self.decoder[0](y, given)
        y = self.decoder[1](y, states + 1 if self.takes == "made anew" else given)
        return self.out(y + states if self.takes == "after" else y)


class Attending(nn.Linear):
    def __init__(self) -> None:
        super().__init__(20, 20)

    def forward(self, y: torch.Tensor, states: object) -> torch.Tensor:
        states = states if isinstance(states, torch.Tensor) else states["states"]
        return super().forward(y) * states.to(y.dtype).tanh().mean(-1, keepdim=True)


def both(takes: str = "") -> Both:
    torch.manual_seed(0)
    net = Both(takes)
    if takes == "narrow":
        net.encoder[1] = nn.Linear(20, 10)
    return net.eval()


@pytest.mark.parametrize(
    ("takes", "why"),
    [
        ("", ""),
        ("unsaid", "it has 2 stacks of blocks beside one another"),
        ("early", "what comes between its stacks takes more than what the one before hands on"),
        ("start again", "a part of it runs both before and between its stacks"),
        ("double", "its blocks hand on tensors of several types"),
        ("narrow", "its blocks change the shapes of what they hand on"),
        ("in a mapping", "its blocks are given more than the running value of the one before"),
        ("made anew", "its blocks are given more than the running value of the one before"),
        ("after", "what comes after its blocks takes more than the last one's output"),
    ],
)
def test_what_is_no_chain_of_two_stacks_is_one_segment_and_works(takes: str, why: str) -> None:
    net = both(takes)
    x = torch.from_numpy(tiny.inputs("chain"))
    evidence = tiny.evidence("chain")
    made = apply_jointly([GPTQ(bits=8, group=0)], Model.from_module(net), evidence)
    assert evidence.progress.notes == ([f"one segment, held in memory whole: {why}"] if why else [])
    with torch.no_grad():
        np.testing.assert_allclose(made.module()(x), net(x), atol=0.1)
    assert len(made.history[-1].damage) == 6


def test_a_block_that_changes_the_shape_of_its_hidden_states_is_found() -> None:
    class Turning(Attending):
        def forward(self, y: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return super().forward(y, states).T.reshape(-1, 20).T

    net = both()
    net.decoder[0] = Turning()
    model, segments, given = probed(net, tiny.inputs("chain"))
    tensors = [model.tensors(segments.tensor_names(i)) for i in range(len(segments))]
    with torch.no_grad(), pytest.raises(NotAChain, match="decoder.0 changes the shape of its hidden states"):
        value, calls = segments.head(tensors[0], given)
        for i in range(1, len(segments)):
            value = segments.run(i, tensors[i], given, value, calls)


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (lambda x, states: (x, states), "given more than the running value"),
        (lambda x, states: (None, states), "not called alike for every batch"),
        (lambda x, states: (), "not called alike for every batch"),
    ],
)
def test_a_batch_whose_blocks_are_called_otherwise_is_found(called: Callable[..., tuple], why: str) -> None:
    class Other(Both):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states = self.encoder[1](self.encoder[0](self.start(x)))
            given = (states, x) if len(x) > 4 else called(x, states)
            return self.out(self.decoder[1](self.decoder[0](x, *given), *given))

    class Either(Attending):
        def forward(self, y: torch.Tensor, states: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return super().forward(y + x, states)

    net = Other().eval()
    net.decoder = nn.ModuleList(Either() for _ in range(2))
    model, segments, (args, _) = probed(net, tiny.inputs("chain"))
    assert not segments.reason
    with torch.no_grad(), pytest.raises(NotAChain, match=why):
        segments.head(model.tensors(segments.tensor_names(0)), ((args[0][:3],), {}))
