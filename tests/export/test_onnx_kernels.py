"""Graphs for fast kernels: the same answers, attention without copies, no addition fused with a normalization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from zoo import ZOO

from rarefy.evidence.sources import Tokens
from rarefy.export.run import export
from rarefy.export.target import target
from rarefy.model import Model

onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install rarefy[onnx]")
ir = pytest.importorskip("onnx_ir", reason="no onnxscript: pip install rarefy[onnx]")

from rarefy.export import onnx_graph, onnx_kernels, onnx_runtime  # noqa: E402 - they need the packages above


@pytest.fixture
def plain() -> ir.Model:
    """A small BERT as torch exports it."""
    return onnx_graph.graph_of(tiny.build("bert").eval(), causal=False, example=None, source="bert")


def answers(model: ir.Model) -> np.ndarray:
    ids = np.random.default_rng(1).integers(3, tiny.VOCABULARY, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    session = onnx_runtime.session(ir.to_proto(model).SerializeToString())
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_an_encoder_answers_the_same(plain: ir.Model) -> None:
    before, kinds = answers(plain), operators(plain)
    layers = kinds.count("Attention")
    assert layers and kinds.count("Transpose") == 4 * layers
    onnx_kernels.tuned(plain)
    found = operators(plain)
    assert found.count("Attention") == layers and "Transpose" not in found
    assert kinds.count("LayerNormalization") == found.count("LayerNormalization") == found.count("Sum")
    np.testing.assert_allclose(answers(plain), before, rtol=1e-4, atol=1e-5)


def test_the_runtime_fuses_no_addition_with_a_normalization(plain: ir.Model, tmp_path: Path) -> None:
    """What `part_norms` is for; the day that the runtime does so with Sum too, its kernels are to be timed again."""
    made = {}
    for name in ("plain", "tuned"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(ir.to_proto(plain).SerializeToString(), options, ["CPUExecutionProvider"])
        made[name] = operators(ir.load(tmp_path / name))
        onnx_kernels.tuned(plain)
    assert "SkipLayerNormalization" in made["plain"]
    assert "SkipLayerNormalization" not in made["tuned"] and "LayerNormalization" in made["tuned"]


def test_attention_with_other_readers_keeps_its_heads(plain: ir.Model) -> None:
    (first, *_) = (node for node in plain.graph if node.op_type == "Attention")
    plain.graph.outputs.append(first.outputs[0])
    kinds = operators(plain)
    onnx_kernels.tuned(plain)
    assert kinds.count("Transpose") - operators(plain).count("Transpose") == 4 * (kinds.count("Attention") - 1)


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_other_families(name: str, opened: Callable[..., Model], data: Tokens, tmp_path: Path) -> None:
    from rarefy.evidence.sources import Arrays

    x = np.random.default_rng(7).normal(size=(2, 3, 16, 16)).astype(np.float32)
    given = Arrays(x, None, "x") if name == "vit" else data
    model = opened(ZOO[name].build())
    made = export(model, target("onnx"), tmp_path / "out", given)
    assert made.proofs[0].kl < 1e-6
    held = operators(ir.load(tmp_path / "out" / "model.onnx"))
    assert "LayerNormalization" in held and "Sum" in held
    if name == "vit":
        with torch.no_grad():
            wanted = model.module()(torch.from_numpy(x)).logits
        found = onnx_runtime.Session(tmp_path / "out" / "model.onnx")(torch.from_numpy(x))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
