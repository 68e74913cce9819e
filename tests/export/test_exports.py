"""Each target from end to end: what was coded arrives, what is wrong is found, what cannot be held is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from export.coded import grid, wide
from transformers import AutoTokenizer
from zoo import ZOO

from rarefy.codes import Dense
from rarefy.errors import RarefyError, UsageError
from rarefy.evidence.sources import Arrays, Sentences, Tokens
from rarefy.export import proof
from rarefy.export.proof import Program, Unproved
from rarefy.export.run import Exported, export
from rarefy.export.target import Target, linears, target
from rarefy.model import Model
from rarefy.opening import open_model
from rarefy.progress import Silent

Opened = Callable[..., Model]

DATA = Path(os.environ.get("RAREFY_DATA", Path(__file__).parents[3] / "shared" / "data"))
STORIES = DATA / "lm" / "stories260K"


def proved(made: Exported) -> float:
    """The distortion in transformers, which must have been asked."""
    first = made.proofs[0]
    assert not first.absent and "transformers" in first.engine
    return first.kl


def test_dense_in_another_type(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    model = opened(wide(), grid(4, 32, False))
    made = export(model, target("safetensors:dtype=bfloat16"), tmp_path / "out", data)
    assert made.forms == {"BF16": len(model.codes)} and made.inexact and made.cost is not None
    assert proved(made) < 1e-9 and 0 < made.cost.value < 0.01
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert network.dtype == torch.bfloat16
    restored = model.module().state_dict()
    assert all(torch.equal(v, restored[k].bfloat16()) for k, v in network.state_dict().items())
    assert made.bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_dense_as_it_was_is_exact_and_has_no_cost(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    made = export(opened(wide(), grid(4, 32, False)), target("safetensors"), tmp_path / "out", data)
    assert not made.inexact and made.cost is None and proved(made) < 1e-9
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_dense_modules_that_transformers_does_not_know(tmp_path: Path) -> None:
    x = tiny.inputs("chain")
    made = export(tiny.opened("chain"), target("safetensors:dtype=float16"), tmp_path / "out", Arrays(x, None, "x"))
    assert made.proofs[0].engine.startswith("torch ") and made.proofs[0].kl < 1e-9


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "form"),
    [
        (4, 32, True, "4 bits, groups of 32, symmetric"),
        (4, 32, False, "4 bits, groups of 32, asymmetric"),
        (3, 32, False, "4 bits, groups of 32, asymmetric"),
        (8, 0, True, "8 bits, rows, symmetric"),
        (6, 32, True, "8 bits, groups of 32, symmetric"),
    ],
)
def test_grids_arrive_packed(bits, group, symmetric, form, opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model = opened(wide(), grid(bits, group, symmetric))
    made = export(model, target("compressed-tensors"), tmp_path / "out", data)
    assert made.forms[form] == 14 and not made.inexact and made.cost is None
    assert proved(made) < 1e-9
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32").eval()
    ids = torch.from_numpy(data.ids)
    with torch.no_grad():
        torch.testing.assert_close(network(ids).logits, model.module()(ids).logits)


def test_what_lies_on_no_grid_goes_to_the_nearest_at_a_cost(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    costs = {}
    for bits in (4, 8):
        words = f"compressed-tensors:bits={bits},group=32,symmetric=false"
        made = export(opened(wide()), target(words), tmp_path / f"out{bits}", data)
        assert len(made.inexact) == 14 and made.cost is not None and proved(made) < 1e-9
        costs[bits] = made.cost.value
    assert 0 < costs[8] < costs[4] / 50
    with pytest.raises(Unproved, match=r"at 1e-06 nats: conversion costs .*; allow more"):
        export(opened(wide()), target("compressed-tensors"), tmp_path / "dear", data, max_kl=1e-6)
    assert not (tmp_path / "dear").exists()


def test_layers_that_the_groups_do_not_fit_stay_dense_and_are_named(
    opened: Opened, data: Tokens, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    made = export(opened(wide()), target("compressed-tensors:group=64"), tmp_path / "out", data)
    assert set(made.why) == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert all("96 inputs are no multiple of groups of 64" in why for why in made.why.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert set(config["ignore"]) == {"lm_head", *(key.removesuffix(".weight") for key in made.why)}
    assert proved(made) < 1e-9


GGUFS = {
    "llama": lambda: wide(),
    "llama, tied": lambda: wide(tie_word_embeddings=True),
    "llama, other heads": lambda: wide(head_dim=32, attention_bias=True),
    "llama, scaled positions": lambda: wide(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
    "mistral": lambda: wide("Mistral", sliding_window=None),
    "qwen2": lambda: wide("Qwen2"),
    "qwen3": lambda: wide("Qwen3", head_dim=16),
}


@pytest.mark.parametrize("name", [name for name in GGUFS if name != "llama, scaled positions"])
def test_gguf_in_transformers_reader(name: str, opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = opened(GGUFS[name](), grid(4, 32, False))
    made = export(model, target("gguf"), tmp_path / "out", data)
    assert made.forms["Q5_0"] == 14 and not made.inexact and proved(made) < 1e-9


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32"])
def test_gguf_types(kind: str, opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    made = export(opened(wide()), target(f"gguf:type={kind},embedding={kind}"), tmp_path / "out", data)
    assert made.forms[kind.upper()] >= 16 and proved(made) < 1e-9
    assert (made.cost is None) == (kind == "f32")


def test_gguf_opens_again_here(tmp_path: Path) -> None:
    """A real network with a sentencepiece tokenizer: the same answers and the same tokens."""
    pytest.importorskip("gguf")
    if not STORIES.is_dir():
        pytest.skip("no stories260K: set RAREFY_DATA")
    model = open_model(STORIES)
    words = AutoTokenizer.from_pretrained(STORIES)
    text = "Once upon a time, there was a little girl named Lily.  She had 12 red balls!\nÉtienne?"
    data = Tokens(np.array([words(text)["input_ids"]]), text, "a story")
    made = export(model, target("gguf:type=f32"), tmp_path / "out", data)
    assert not made.inexact and proved(made) < 1e-9
    again = open_model(tmp_path / "out" / "model.gguf")
    ids = torch.from_numpy(data.ids)
    with torch.no_grad():
        torch.testing.assert_close(again.module()(ids).logits, model.module()(ids).logits)
    read = AutoTokenizer.from_pretrained(again.skeleton.folder)
    assert read(text)["input_ids"] == words(text)["input_ids"]


def test_gguf_leaves_out_what_the_network_does_not_use(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = opened(wide())
    old = Dense.of(np.ones(8, np.float32))
    model = dataclasses.replace(model, codes={**model.codes, "model.rotary_emb.inv_freq": old})
    made = export(model, target("gguf"), tmp_path / "out", data)
    assert made.forms["left out"] == 1 and set(made.why) == {"model.rotary_emb.inv_freq"} and proved(made) < 1e-9


def test_encoders_are_packed_too(opened: Opened, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    ids = tuple(np.random.default_rng(i).integers(3, tiny.VOCABULARY, 9) for i in range(5))
    data = Sentences(ids, "", "sentences")
    model = opened(tiny.build("bert"))
    made = export(model, target("compressed-tensors:group=16"), tmp_path / "out", data)
    assert made.forms["4 bits, groups of 16, asymmetric"] == 13 and made.cost is not None and proved(made) < 1e-9
    assert len(made.proofs) == 1  # vLLM is asked about causal language models alone


@pytest.mark.parametrize("body", ["model", "none"])
def test_the_output_head_is_left_out(body: str, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a network that has no module for its body, as T5."""
    model = opened(wide())
    monkeypatch.setattr(type(model.skeleton.empty), "base_model_prefix", body)
    paths = list(dict(linears(model)).values())
    assert len(paths) == 14 and "lm_head" not in paths


def test_classifiers_are_left_out(opened: Opened) -> None:
    paths = list(dict(linears(opened(ZOO["vit"].build()))).values())
    assert len(paths) == 12 and "classifier" not in paths


def test_gguf_rows_that_are_no_whole_blocks_are_named(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    made = export(opened(tiny.build("llama_tied")), target("gguf:type=q4_0"), tmp_path / "out", data)
    assert set(made.why) == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert all("48 columns are no multiple of 32" in why for why in made.why.values())


def test_gguf_says_scaled_positions_as_factors(opened: Opened, tmp_path: Path) -> None:
    """transformers' reader does not read them: held to the formula (Llama 3.1's), not to an engine."""
    gguf = pytest.importorskip("gguf")
    from rarefy.export.gguf import FILE

    model, made = opened(GGUFS["llama, scaled positions"]()), target("gguf:type=f32")
    (tmp_path / "out").mkdir()
    made.write(made.convert(model, Silent()), tmp_path / "out", Silent())
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out" / FILE).tensors}
    wavelengths = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)
    smooth = (16 / wavelengths - 1) / 3
    between = 1 / ((1 - smooth) / 8 + smooth)
    wanted = np.where(wavelengths < 4, 1, np.where(wavelengths > 16, 8, between))
    np.testing.assert_allclose(tensors["rope_freqs.weight"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "words", "line"),
    [
        (lambda: tiny.build("bert"), "gguf", "it is a BertModel, and exported are llama, mistral"),
        (lambda: tiny.build("mistral"), "gguf", "it sees 4 of 64 positions"),
        (lambda: wide(hidden_act="gelu"), "gguf", "its activation is gelu"),
        (
            lambda: wide("Qwen2", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "gguf",
            "its positions are scaled by linear",
        ),
    ],
)
def test_what_a_target_cannot_hold(
    network, words: str, line: str, opened: Opened, data: Tokens, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match=line):
        export(opened(network()), target(words), tmp_path / "out", data)
    assert not list(tmp_path.glob("*out*"))


def test_modules_are_refused_by_name(data: Tokens, tmp_path: Path) -> None:
    for words in ("gguf", "compressed-tensors"):
        with pytest.raises(UsageError, match="cannot be held by"):
            export(tiny.opened("chain"), target(words), tmp_path / "out", data)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("onyx", "there is no export to 'onyx'|there is no export to onyx; there are safetensors"),
        ("compressed-tensors:bits=3", "bits=3: it must be one of None, 4, 8"),
        ("gguf:type=q6_k", "it must be one of auto, q4_0"),
        ("gguf:typ=q4_0", "did you mean type"),
        ("safetensors:dtype=int8", "it must be one of"),
    ],
)
def test_targets_that_there_are_not(words: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        target(words)


class Spoiled(Target):
    """A target that writes another network than it says."""

    def __init__(self, inner: Target, key: str) -> None:
        self.__dict__.update(inner=inner, key=key)

    def convert(self, model, progress):
        return self.inner.convert(model, progress)

    def write(self, conversion, folder, progress) -> None:
        code = conversion.model.codes[self.key]
        spoiled = type(code).of(code.decode()[::-1].copy())
        codes = {**conversion.model.codes, self.key: spoiled}
        wrong = dataclasses.replace(conversion, model=dataclasses.replace(conversion.model, codes=codes))
        self.inner.write(wrong, folder, progress)

    def engines(self, conversion):
        return self.inner.engines(conversion)


def test_an_export_that_talks_nonsense_is_refused_and_the_layer_named(
    opened: Opened, data: Tokens, tmp_path: Path
) -> None:
    wrong = Spoiled(target("safetensors"), "model.layers.1.self_attn.k_proj.weight")
    with pytest.raises(Unproved, match=r"other answers .*: they part at model\.layers\.1\.self_attn\.k_proj") as caught:
        export(opened(wide()), wrong, tmp_path / "out", data)
    assert caught.value.status == 1
    assert not list(tmp_path.glob("*out*"))


def test_an_export_that_does_not_open_is_refused(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    class Empty(Spoiled):
        def write(self, conversion, folder, progress) -> None:
            (folder / "config.json").write_text("{}")

    with pytest.raises(Unproved, match="does not open the export"):
        export(opened(wide()), Empty(target("safetensors"), ""), tmp_path / "out", data)
    assert not list(tmp_path.glob("*out*"))


def runner(folder: Path, body: str) -> Program:
    (folder / "runner.py").write_text(body)
    return Program("an engine", "its-package", "json", str(folder / "runner.py"), 0.01)


GIVES = """
import json, sys, numpy as np
given = np.load(sys.argv[2])
outputs = np.load({where!r})[:, :-1] + {off}
np.savez(sys.argv[3], outputs=outputs, said=json.dumps({{"tokens": {tokens}}}))
"""


class Words:
    """A tokenizer."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [3, 1, 4]}


def test_engines_in_processes_of_their_own(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    asked = proof.Asked.of(opened(wide()), data, Words())
    where = str(tmp_path / "outputs.npy")
    np.save(where, asked.outputs.numpy())
    right = runner(tmp_path, GIVES.format(where=where, off=0.5, tokens=[3, 1, 4]))  # a constant changes no law
    found = right.ask(tmp_path, asked, None)
    assert found.kl < 1e-7 and found.largest < 1e-5 and found.tokens is True and not right.absent(None)
    for body, line in [
        (GIVES.format(where=where, off="np.arange(64)", tokens=[]), "an engine runs the export with other answers"),
        (GIVES.format(where=where, off=0, tokens=[3, 1, 5]), "makes other tokens of text: from token 2 on"),
        ("import sys; sys.exit('no such block type')", "an engine does not run the export: no such block type"),
    ]:
        with pytest.raises(Unproved, match=line):
            runner(tmp_path, body).ask(tmp_path, asked, None)
    missing = dataclasses.replace(right, module="no_such_module")
    assert missing.absent(None) == "its-package is not installed here; --python names another interpreter"


def test_without_any_engine_nothing_is_written(opened: Opened, data: Tokens, tmp_path: Path) -> None:
    class Alone(Spoiled):
        def write(self, conversion, folder, progress) -> None: ...

        def engines(self, conversion):
            return [Program("an engine", "its-package", "no_such_module", "none.py", 0.01)]

    with pytest.raises(RarefyError, match="no engine could open the export"):
        export(opened(wide()), Alone(target("safetensors"), ""), tmp_path / "out", data)
    assert not (tmp_path / "out").exists()
