"""Eight bits for weights and inputs: the grid of inputs, where it acts, that it is kept, that engines have it too."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from export.coded import wide
from torch import nn

import rarefy
from rarefy import edits
from rarefy.edits import QuantizedInput
from rarefy.errors import FormatError, UsageError
from rarefy.evidence import Evidence
from rarefy.evidence.sources import Tokens
from rarefy.export.run import export
from rarefy.export.target import target
from rarefy.families.values import model_inputs
from rarefy.methods.quantize.w8a8 import W8A8
from rarefy.model import Model
from rarefy.opening import open_model


def run(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    args, kwargs = model_inputs(module, batch)
    out = module(*args, **kwargs)
    return out if isinstance(out, torch.Tensor) else out[0]


def literal(x: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.rint(x / np.float32(scale)), -128, 127).astype(np.float32) * np.float32(scale)


def test_dynamic_inputs_have_a_scale_a_token() -> None:
    x = np.random.default_rng(0).standard_t(3, (2, 5, 7)).astype(np.float32)
    x[1, 2] = 0
    got = QuantizedInput()(torch.from_numpy(x)).numpy()
    for i, j in np.ndindex(2, 5):
        scale = np.abs(x[i, j]).max() / np.float32(127)
        np.testing.assert_allclose(got[i, j], literal(x[i, j], scale or 1), atol=1e-6)
    assert np.unique(got[0, 0] / (np.abs(x[0, 0]).max() / 127)).size <= 7


def test_images_have_a_scale_each() -> None:
    x = torch.randn(2, 3, 4, 4)
    got, alone = QuantizedInput()(x), torch.cat([QuantizedInput()(image[None]) for image in x])
    torch.testing.assert_close(got, alone)
    scale = x[0].abs().max() / 127
    torch.testing.assert_close(got[0] / scale, (got[0] / scale).round(), atol=1e-3, rtol=0)


def test_static_inputs_are_cut_off_at_the_range() -> None:
    x = np.array([-3.0, -0.013, 0.0, 0.5, 2.0], np.float32)
    np.testing.assert_allclose(QuantizedInput(8, 0.01)(torch.from_numpy(x)), literal(x, 0.01), atol=1e-7)


def test_gradients_pass_straight_through() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    QuantizedInput(4)(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * QuantizedInput(4)(x.detach()))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llama_tied", "resnet", "chain"])
def test_the_network_runs_on_quantized_inputs(name: str, static: bool) -> None:
    model, evidence = tiny.opened(name), tiny.evidence(name)
    made = W8A8(static=static).apply(model, evidence)
    coded = set(made.history[0].damage)
    assert set(made.edits) == coded and all((edit.scale is not None) == static for edit in made.edits.values())
    module, weights_alone = made.module(), Model.of(made.skeleton, made.codes, made.dtypes, "").module()
    seen: dict[str, torch.Tensor] = {}
    for key in coded:
        path = made.names[key].removesuffix(".weight")
        module.get_submodule(path).register_forward_pre_hook(lambda _l, args, key=key: seen.update({key: args[0]}))
    batch = evidence.micro_batches()[0]
    with torch.no_grad():
        out, without = (run(each, batch) for each in (module, weights_alone))
    assert not torch.equal(out, without)
    assert float((out - without).std()) < 0.1 * float(without.std())
    for key, x in seen.items():
        scale = made.edits[key].scale
        if scale is not None:
            torch.testing.assert_close(x / scale, (x / scale).round(), atol=1e-3, rtol=0)


def test_static_scales_are_the_largest_input_of_calibration() -> None:
    model, evidence = tiny.opened("chain"), tiny.evidence("chain")
    module, largest = model.module(), {}
    module[0].register_forward_pre_hook(lambda _l, args: largest.update({"0.weight": args[0].abs().max()}))
    for batch in evidence.micro_batches():
        module(batch)
    made = W8A8(static=True).apply(model, evidence)
    assert made.edits["0.weight"].scale == pytest.approx(float(largest["0.weight"]) / 127)


def test_it_is_kept_and_opened_again(tmp_path: Path) -> None:
    wide().save_pretrained(tmp_path / "original")
    ids = np.random.default_rng(0).integers(3, tiny.VOCABULARY, (4, 16))
    np.savez(tmp_path / "ids.npz", x=ids)
    rarefy.compress(tmp_path / "original", tmp_path / "out", ["quantize.w8a8:static=true"], data=[tmp_path / "ids.npz"])
    model = open_model(tmp_path / "out")
    assert len(model.edits) == 15
    batch = torch.from_numpy(ids)
    with torch.no_grad():
        expected = model.module()(batch).logits
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(loaded(batch).logits, expected)
        body = transformers.AutoModel.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(body(batch)[0], model.module().model(batch)[0])
    # A later step sees what the inputs have become.
    later = W8A8().apply(model, Evidence(ids))
    assert all(edit.scale is None for edit in later.edits.values())


@pytest.mark.filterwarnings("ignore:.*quantization_config:UserWarning")
def test_packed_networks_do_it() -> None:
    model, evidence = tiny.opened("llama_tied"), tiny.evidence("llama_tied")
    made = W8A8().apply(model, evidence)
    batch = evidence.micro_batches()[0]
    with torch.no_grad():
        packed, plain, dense = (
            run(module, batch).float()
            for module in (made.packed(), Model.of(made.skeleton, made.codes, made.dtypes, "").packed(), made.module())
        )
    assert not torch.equal(packed, plain)
    assert float((packed - dense).std()) < 0.1 * float(dense.std())


@pytest.mark.parametrize("static", [False, True])
def test_compressed_tensors_have_it(static: bool, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    wide().save_pretrained(tmp_path / "original")
    ids = np.random.default_rng(0).integers(3, tiny.VOCABULARY, (4, 16))
    made = W8A8(static=static, scale="F32").apply(open_model(tmp_path / "original"), Evidence(ids))
    exported = export(made, target("compressed-tensors"), tmp_path / "out", Tokens(ids, "", "ids"))
    kind = "static" if static else "dynamic"
    assert set(exported.why) == {"lm_head.weight"} and exported.cost is not None
    assert exported.forms[f"8 bits, rows, symmetric, {kind} inputs of 8 bits"] == 14
    assert not exported.proofs[0].absent and exported.proofs[0].kl < (1e-5 if static else 0.02)
    with pytest.raises(UsageError, match="all layers have theirs alike, and 8 symmetric bits"):
        export(made, target("compressed-tensors:bits=4"), tmp_path / "four", Tokens(ids, "", "ids"))


def test_what_does_not_run_it_says_so_and_what_that_changes(tmp_path: Path) -> None:
    wide().save_pretrained(tmp_path / "original")
    ids = np.random.default_rng(0).integers(3, tiny.VOCABULARY, (4, 16))
    made = W8A8().apply(open_model(tmp_path / "original"), Evidence(ids))
    exported = export(made, target("safetensors"), tmp_path / "out", Tokens(ids, "", "ids"))
    assert set(exported.why) == set(made.edits) and exported.cost is not None and exported.cost.value > 0
    assert exported.why["model.layers.0.mlp.up_proj.weight"] == "its inputs are not quantized there"


@pytest.mark.parametrize("said", [[], {"w": 3}, {"w": {"bits": 9, "scale": None}}, {"w": {"bits": 8, "scale": -1.0}}])
def test_damaged_edits_are_refused(said: object) -> None:
    with pytest.raises(FormatError, match="edit"):
        edits.read(said)


def test_edits_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(FormatError, match=r"an edit is of nowhere\.weight, which the network has not"):
        edits.attach(tiny.build("chain"), {"nowhere.weight": QuantizedInput()})
