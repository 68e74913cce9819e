"""`rarefy evaluate`: figures of language models and classifiers, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command import rarefy

FEW = ("--blocks", 4, "--length", 32)


def test_language_model_against_its_original(llama: Path, packed: Path) -> None:
    said = rarefy("evaluate", packed, "--against", llama, *FEW, "--json")
    found = said.json()
    assert said.status == 0
    for name in ("perplexity", "kl"):
        assert set(found[name]) == {"value", "low", "high"}
    assert found["kl"]["value"] > 0
    assert found["bytes"] == (packed / "model.safetensors").stat().st_size
    assert found["bpw"] == pytest.approx(8 * found["bytes"] / found["weights"])
    reference = found["reference"]
    assert {"bytes", "weights", "bpw", "perplexity"} <= set(reference)
    assert reference["bytes"] == (llama / "model.safetensors").stat().st_size
    assert "the evaluation part of pydoc_data.topics: 4 blocks of 32 tokens" in said.err


def test_alone_there_is_no_divergence(llama: Path) -> None:
    found = rarefy("evaluate", llama, *FEW, "--json").json()
    assert "perplexity" in found
    assert not {"kl", "reference", "difference"} & set(found)


def test_table_has_a_column_for_each_network(llama: Path, packed: Path) -> None:
    said = rarefy("evaluate", packed, "--against", llama, *FEW)
    heading = said.out.splitlines()[0].split()
    assert heading == [str(packed), str(llama)]
    assert "KL, nats a token" in said.out
    assert "warning: the intervals rest on 4 blocks" in said.err


def test_classifier(mlp: str, packed_mlp: Path) -> None:
    said = rarefy("evaluate", f"cli_nets:mlp@{packed_mlp}", "--against", mlp, "--data", "held.npz", "--json")
    found = said.json()
    assert 0.5 < found["accuracy"]["low"] < found["accuracy"]["value"] < found["accuracy"]["high"] <= 1
    assert found["kl"]["value"] > 0
    assert found["reference"]["accuracy"]["value"] > 0.5
    assert found["data"] == "held.npz"
    table = rarefy("evaluate", f"cli_nets:mlp@{packed_mlp}", "--against", mlp, "--data", "held.npz").out
    assert "accuracy" in table
    assert "KL, nats an example" in table


def test_what_a_file_names_is_not_imported(packed_mlp: Path) -> None:
    said = rarefy("evaluate", packed_mlp, "--data", "held.npz")
    assert said.status == 2
    assert said.err.strip().endswith(f"if you trust that code, give cli_nets:mlp@{packed_mlp}")


def test_encoder(here: Path, llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=320, max_position_embeddings=64, **size)).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "bert")
    made = rarefy("compress", tmp_path / "bert", tmp_path / "out", "-m", "quantize.rtn:bits=3,group=16", "--json")
    assert made.status == 0, made.err
    said = rarefy("evaluate", tmp_path / "out", "--against", tmp_path / "bert", "--blocks", 8, "--json")
    assert 0 < said.json()["kl"]["value"] < 1


def test_text_that_was_calibrated_on_is_refused(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i} and its {i % 7} neighbours" for i in range(600)))
    made = rarefy("compress", llama, tmp_path / "out", "-m", "quantize.gptq:group=16", "--data", text, "--length", 32)
    assert made.status == 0, made.err
    said = rarefy("evaluate", tmp_path / "out", "--data", text, *FEW)
    assert said.status == 2
    assert "were calibrated on" in said.error()
    against = rarefy("evaluate", llama, "--against", tmp_path / "out", "--data", text, *FEW)
    assert against.status == 2


def test_examples_that_were_calibrated_on_are_refused(packed_mlp: Path) -> None:
    said = rarefy("evaluate", f"cli_nets:mlp@{packed_mlp}", "--data", "calibration.npz")
    assert said.status == 2
    assert "were calibrated on" in said.error()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("missing",), "does not exist"),
        (("cli_nets:nothing",), "cannot be called"),
        (("cli_nets:mlp@mlp.safetensors",), "--data"),
        (("cli_nets:mlp@mlp.safetensors", "--data", "held.npz", "--dtype", "float8"), "float32"),
        (("cli_nets:mlp@mlp.safetensors", "--data", "cli_nets.py"), "does not read text"),
        (("cli_nets:mlp@mlp.safetensors", "--data", "held.npz", "--blocks", "0"), "--blocks"),
    ],
)
def test_wrong_calls_are_one_line_and_status_2(mlp: str, words: tuple[str, ...], told: str) -> None:
    said = rarefy("evaluate", *words)
    assert said.status == 2
    assert told in said.error()
