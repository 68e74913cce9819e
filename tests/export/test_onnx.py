"""ONNX: our integers in the runtime's own kernels; graphs of each family, whole and behind a cache; rounded activations
priced and taken out of the proof."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from export.coded import grid, wide
from zoo import ZOO

from rarefy.errors import RarefyError, UsageError
from rarefy.evidence.sources import Arrays, Sentences, Tokens
from rarefy.export.onnx_saturation import MOST, saturation
from rarefy.export.proof import Asked, Unproved
from rarefy.export.run import Exported, export
from rarefy.export.target import target
from rarefy.model import Model
from rarefy.progress import Silent

onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install rarefy[onnx]")
ir = pytest.importorskip("onnx_ir", reason="no onnxscript: pip install rarefy[onnx]")

from rarefy.export import onnx_layers, onnx_rounding, onnx_runtime  # noqa: E402 - they need the packages above

Opened = Callable[..., Model]


def agreed(made: Exported) -> float:
    """What the runtime's answers are off by."""
    (proof,) = made.proofs
    assert proof.engine.startswith("ONNX Runtime") and not proof.absent
    return proof.kl


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in ir.load(folder / "model.onnx").graph]


def run(nodes: list, given: dict[str, np.ndarray]) -> np.ndarray:
    """What one operator of the runtime makes of arrays."""
    inputs = [ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(x.dtype)), shape=ir.Shape(x.shape))
              for name, x in given.items()]  # fmt: skip
    by_name = {value.name: value for value in inputs}
    kind, names, attributes = nodes
    node = ir.node(kind, [by_name.get(name) for name in names], attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 23, "com.microsoft": 1}, name="one")
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    return onnx_runtime.session(model.SerializeToString()).run(None, given)[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "group", "columns"), [(4, 16, 48), (4, 32, 96), (4, 64, 192), (8, 32, 96), (8, 128, 128)]
)
def test_the_runtime_reads_our_integers(bits: int, group: int, columns: int, symmetric: bool) -> None:
    random = np.random.default_rng(5)
    code = grid(bits, group, symmetric)(random.normal(size=(24, columns)).astype(np.float32))
    packed, w = onnx_layers.Packed(code), code.decode()
    given = {"levels": packed.levels.numpy(), "scales": packed.scales.float().numpy()}
    if packed.zeros is not None:
        given["zeros"] = packed.zeros.numpy()
    x = random.normal(size=(3, columns)).astype(np.float32)
    attributes = {"bits": bits, "block_size": group}
    names = ["x", "levels", "scales", "zeros"]
    y = run(["MatMulNBits", names, attributes | {"K": columns, "N": 24}], {"x": x, **given})
    np.testing.assert_allclose(y, x @ w.T, rtol=1e-4, atol=1e-4)
    ids = np.array([[0, 23], [7, 7]])
    given["levels"] = given["levels"].reshape(24, -1)
    names = ["levels", "ids", "scales", "zeros"]
    rows = run(
        ["GatherBlockQuantized", names, {**attributes, "gather_axis": 0, "quantize_axis": 1}], {"ids": ids, **given}
    )
    np.testing.assert_array_equal(rows, w[ids])


def test_a_language_model_keeps_its_integers_and_takes_any_batch(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    model = opened(wide(tie_word_embeddings=True, num_hidden_layers=1), grid(4, 32, False))
    made = export(model, target("onnx:embedding=8"), tmp_path / "out", data)
    assert made.forms["4 bits, groups of 32, asymmetric"] == 7 and set(made.inexact) == {"model.embed_tokens.weight"}
    assert agreed(made) < 1e-6 and made.cost is not None and made.cost.value < 0.01
    held = operators(tmp_path / "out")
    assert held.count("MatMulNBits") == 8 and held.count("GatherBlockQuantized") == 1 and "MatMul" not in held
    graph = ir.load(tmp_path / "out" / "model.onnx").graph
    (node,) = (node for node in graph if node.name == "model.layers.0.mlp.up_proj/MatMulNBits")
    levels = ir.convenience.get_const_tensor(node.inputs[1]).numpy().reshape(96, -1)
    q = np.stack([levels & 15, levels >> 4], -1).reshape(96, -1)
    np.testing.assert_array_equal(q, model.codes["model.layers.0.mlp.up_proj.weight"].q)
    assert [value.name for value in graph.inputs] == [
        "input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value",
    ]  # fmt: skip
    assert [value.name for value in graph.outputs] == ["logits", "present.0.key", "present.0.value"]
    assert "/site-packages/" not in (tmp_path / "out" / "model.onnx").read_bytes().decode("latin1")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    ids = torch.from_numpy(np.random.default_rng(1).integers(3, tiny.VOCABULARY, (5, 7)))
    restored = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "original", dtype="float32").eval()
    restored.load_state_dict(weights(model, "onnx:embedding=8"), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(
            onnx_runtime.Session(tmp_path / "out" / "model.onnx")(ids), restored(ids).logits, rtol=1e-3, atol=1e-3
        )


def weights(model: Model, words: str) -> dict[str, torch.Tensor]:
    """The weights as a target holds them."""
    made = target(words).convert(model, Silent()).model
    return {name: torch.from_numpy(made.codes[key].decode()) for key, name in made.names.items()}


FAMILIES = {
    "mistral, a window": lambda: wide("Mistral", sliding_window=4, num_hidden_layers=1),
    "qwen2": lambda: wide("Qwen2", num_hidden_layers=1),
    "qwen3": lambda: wide("Qwen3", head_dim=16, num_hidden_layers=1),
    "gemma": lambda: wide("Gemma", head_dim=16, num_hidden_layers=1),
    "gpt_neox": lambda: one_layer("gpt_neox"),
    "gpt2": lambda: one_layer("gpt2", n_layer=1),
}


def one_layer(name: str, **more) -> torch.nn.Module:
    member = ZOO[name]
    return dataclasses.replace(member, config=member.config | (more or {"num_hidden_layers": 1})).build()


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_language_models(name: str, opened: Opened, data: Tokens, tmp_path: Path) -> None:
    made = export(opened(FAMILIES[name]()), target("onnx:bits=8"), tmp_path / "out", data)
    assert agreed(made) < 1e-6 and made.inexact and "MatMulNBits" in operators(tmp_path / "out")


def test_an_encoder_with_rounded_activations(opened: Opened, tmp_path: Path) -> None:
    ids = tuple(np.random.default_rng(i).integers(3, tiny.VOCABULARY, 5 + i) for i in range(5))
    data = Sentences(ids, "", "sentences")
    made = export(opened(tiny.build("bert")), target("onnx:activations=int8"), tmp_path / "out", data)
    assert made.forms["8 bits, rows"] == 13 and agreed(made) < 1e-6
    assert made.cost is not None and 1e-7 < made.cost.value < 0.01
    assert operators(tmp_path / "out").count("MatMulInteger") == 12  # the pooler's output is not asked for


@pytest.fixture
def ranges(tmp_path: Path) -> str:
    x = np.random.default_rng(3).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "ranges.npz", x=x)
    return str(tmp_path / "ranges.npz")


@pytest.mark.parametrize("name", ["torch_resnet", "resnet", "vit"])
def test_networks_of_images_in_fixed_ranges(name: str, ranges: str, opened: Opened, tmp_path: Path) -> None:
    model = tiny.opened(name) if name == "torch_resnet" else opened(ZOO[name].build())
    x = np.random.default_rng(7).normal(size=(6, 3, 16, 16)).astype(np.float32)
    words = f"onnx:activations=int8,calibration={ranges}"
    made = export(model, target(words), tmp_path / "out", Arrays(x, None, "x"))
    assert agreed(made) < 1e-4 and made.cost is not None and 1e-9 < made.cost.value < 0.05
    held = operators(tmp_path / "out")
    assert held.count("QuantizeLinear") >= 8 and "BatchNormalization" not in held
    network = onnx_runtime.Session(tmp_path / "out" / "model.onnx")
    assert len(network(torch.from_numpy(x[:1]))) == 1  # any batch


@pytest.mark.parametrize("name", ["torch_resnet", "bert"])
def test_reduced_integers_cannot_saturate(name: str, ranges: str, opened: Opened, data: Tokens, tmp_path: Path) -> None:
    """Two neighbours' products with 8 bits without sign fit 16 bits, in which processors without VNNI add them."""
    if name == "bert":
        model, given, words = opened(tiny.build("bert")), Sentences(data.ids, "", "sentences"), "onnx:activations=int8"
    else:
        x = np.random.default_rng(7).normal(size=(6, 3, 16, 16)).astype(np.float32)
        words = f"onnx:activations=int8,calibration={ranges}"
        model, given = tiny.opened(name), Arrays(x, None, "x")
    made = export(model, target(f"{words},reduce_range=true"), tmp_path / "out", given)
    assert any(form == "8 bits, rows, unsaturated" for form in made.forms)
    assert agreed(made) < 1e-4 and made.cost is not None and 1e-9 < made.cost.value < 0.05
    graph = ir.load(tmp_path / "out" / "model.onnx").graph
    weights = [
        value.const_value.numpy()
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.INT8 and len(value.shape) > 1
    ]
    assert len(weights) >= 4
    for w in weights:
        outputs_first = w if len(w.shape) == 4 else w.T
        assert 64 < np.abs(w.astype(int)).max() <= 127 and saturation(outputs_first.astype(int)) <= MOST


def test_matrices_that_are_excluded_stay_in_floats(ranges: str, tmp_path: Path) -> None:
    words = f"onnx:activations=int8,calibration={ranges}"
    x = np.random.default_rng(7).normal(size=(6, 3, 16, 16)).astype(np.float32)
    every, some = (
        export(tiny.opened("torch_resnet"), target(f"{words}{more}"), tmp_path / name, Arrays(x, None, "x"))
        for name, more in (("every", ""), ("some", ",exclude=[conv.weight,layer1.*]"))
    )
    assert agreed(some) < 1e-4 and set(some.why.values()) == {"excluded"}
    assert "conv.weight" in some.why and all(name.startswith(("conv.", "layer1.")) for name in some.why)
    assert every.forms["8 bits, rows"] - some.forms["8 bits, rows"] == len(some.why) >= 3
    assert operators(tmp_path / "some").count("QuantizeLinear") < operators(tmp_path / "every").count("QuantizeLinear")
    with pytest.raises(UsageError, match="exclude=nowhere fits no matrix"):
        export(tiny.opened("torch_resnet"), target(f"{words},exclude=nowhere"), tmp_path / "none", None)


def test_ranges_lose_least() -> None:
    """Of a flat law nothing is clipped; of one with a long tail what costs less than a finer step gains."""
    rng = np.random.default_rng(0)
    for values, least, most in ((rng.uniform(0, 1, 10**6), 0.97, 1.0), (rng.laplace(0, 1, 10**6), 0.5, 0.95)):
        low, high = min(values.min(), 0), values.max()
        counts = np.histogram(values, onnx_rounding.BINS, (low, high))[0]
        found = onnx_rounding.clipped(counts, low, high)
        assert least <= found[1] / high <= most

        def lost(low: float, high: float, values: np.ndarray = values) -> float:
            step = (high - low) / 255
            return float(np.square(np.clip(np.rint(values / step), low // step, high // step) * step - values).sum())

        tried = [lost(share * low, share * high) for share in (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)]
        assert lost(*found) < 1.03 * min(tried)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    x = tiny.inputs("chain")
    for name in ("a", "b"):
        made = export(tiny.opened("chain"), target("onnx:bits=8"), tmp_path / name, Arrays(x, None, "x"))
        assert agreed(made) < 1e-6
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_a_spoiled_file_is_found_and_the_layer_named(tmp_path: Path) -> None:
    model, data = tiny.opened("chain"), Arrays(tiny.inputs("chain"), None, "x")
    rounding = target("onnx:activations=int8")
    export(model, rounding, tmp_path / "out", data)
    path = tmp_path / "out" / "model.onnx"
    graph = ir.load(path)
    (node,) = (node for node in graph.graph if node.name.startswith("2/MatMulInteger"))
    weight = node.inputs[1]
    weight.const_value = ir.tensor(np.roll(weight.const_value.numpy(), 1, 0), name=weight.name)
    ir.save(graph, path)
    engine = onnx_runtime.Runtime("model.onnx", causal=False, rounds=True)
    asked = Asked.of(rounding.convert(model, Silent()).model, data)
    with pytest.raises(Unproved, match=r"with other answers .*they part at 2$"):
        engine.ask(tmp_path / "out", asked, None)
    path.write_bytes(b"no graph")
    with pytest.raises(Unproved, match="does not run the export"):
        dataclasses.replace(engine, rounds=False).ask(tmp_path / "out", asked, None)


def test_what_one_file_cannot_hold_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.export.onnx.LARGEST", 1000)
    data = Arrays(tiny.inputs("chain"), None, "x")
    made = export(tiny.opened("chain"), target("onnx:activations=int8"), tmp_path / "out", data)
    assert agreed(made) < 1e-6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "model.onnx.data"]


def test_signs_of_gains_move_into_the_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    assert (norm.weight < 0).any() and (norm.weight > 0).any()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, bias=False), norm, torch.nn.Flatten()).eval()
    x = np.random.default_rng(7).normal(size=(4, 3, 5, 5)).astype(np.float32)
    made = export(Model.from_module(network), target("onnx:bits=8"), tmp_path / "out", Arrays(x, None, "x"))
    assert agreed(made) < 1e-6 and "BatchNormalization" not in operators(tmp_path / "out")


def test_layers_that_groups_do_not_fit_stay_dense_and_are_named(tmp_path: Path) -> None:
    made = export(
        tiny.opened("chain"), target("onnx:bits=4"), tmp_path / "out", Arrays(tiny.inputs("chain"), None, "x")
    )
    assert made.why == {
        "0.weight": "its 20 columns are no multiple of 16",
        "2.weight": "its 24 columns are no multiple of 16",
    }
    assert made.forms["4 bits, groups of 16, asymmetric"] == 1


def test_what_a_graph_cannot_hold(opened: Opened, data: Tokens, ranges: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an encoder and a decoder are two graphs"):
        export(opened(ZOO["t5"].build()), target("onnx"), tmp_path / "out", data)
    with pytest.raises(UsageError, match="networks that read tokens are taken as they come"):
        words = f"onnx:activations=int8,calibration={ranges}"
        export(opened(wide()), target(words), tmp_path / "out", data)
    x = np.load(ranges)["x"]
    with pytest.raises(UsageError, match="calibration is for activations=int8"):
        export(tiny.opened("torch_resnet"), target(f"onnx:calibration={ranges}"), tmp_path / "out", None)
    with pytest.raises(UsageError, match="reduce_range is for weights with a scale a row"):
        export(tiny.opened("torch_resnet"), target("onnx:reduce_range=true"), tmp_path / "out", None)
    with pytest.raises(RarefyError, match="calibrat"):
        words = f"onnx:activations=int8,calibration={ranges}"
        export(tiny.opened("torch_resnet"), target(words), tmp_path / "out", Arrays(x, None, "x"))
    assert not (tmp_path / "out").exists()


def test_a_network_that_torch_cannot_follow_is_refused(tmp_path: Path) -> None:
    class Asking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Linear(20, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x) if float(x.sum()) > 0 else -self.out(x)

    data = Arrays(tiny.inputs("chain"), None, "x")
    with pytest.raises(UsageError, match="torch cannot export .* to ONNX"):
        export(Model.from_module(Asking()), target("onnx"), tmp_path / "out", data)


def test_unrounding_leaves_plain_graphs_alone(tmp_path: Path) -> None:
    x = tiny.inputs("chain")
    export(tiny.opened("chain"), target("onnx"), tmp_path / "out", Arrays(x, None, "x"))
    graph = ir.load(tmp_path / "out" / "model.onnx")
    before = [node.op_type for node in graph.graph]
    onnx_rounding.unrounded(graph)
    assert [node.op_type for node in graph.graph] == before
