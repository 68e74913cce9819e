"""`rarefy compare`: two networks, more against an original, margins, texts, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli.command import rarefy

if TYPE_CHECKING:
    from pathlib import Path

FEW = ("--blocks", 4, "--length", 32, "--tokens", 8)


@pytest.fixture(scope="session")
def coarse(llama: Path, here: Path) -> Path:
    """The Llama at 2 bits."""
    said = rarefy("compress", llama, "coarse", "-m", "quantize.rtn:bits=2,group=16")
    assert said.status == 0, said.err
    return here / "coarse"


def test_two_against_their_original(llama: Path, packed: Path, coarse: Path) -> None:
    said = rarefy("compare", packed, coarse, "--original", llama, *FEW, "--json", "--margin", "kl=0")
    assert said.status == 0, said.err
    found = said.json()
    assert set(found) == {"blocks", "data", "networks", "pairs", "seconds", "original", "warnings"}
    fine, rough = found["networks"]
    assert [fine["name"], rough["name"], found["original"]["name"]] == [str(packed), str(coarse), str(llama)]
    assert fine["bytes"] == (packed / "model.safetensors").stat().st_size
    pair, *against = found["pairs"]
    assert set(pair["difference"]) == {"kl", "nll", "perplexity"}
    assert pair["difference"]["kl"]["value"] == pytest.approx(fine["kl"]["value"] - rough["kl"]["value"], abs=1e-9)
    assert pair["better"]["kl"] == str(packed)
    assert pair["no_worse"] == [{"measure": "kl", "margin": 0.0, "confidence": 2000 / 2001, "holds": True}]
    assert [each["second"] for each in against] == ["the original"] * 2
    assert all(0 <= each["changed"]["value"] <= 1 for each in found["pairs"])
    assert found["original"]["kl"]["value"] == 0
    for network in (fine, rough, found["original"]):
        written = network["written"]
        assert len(written["texts"]) == 8
        assert 0 < written["limit"] <= 8
        assert all(text["tokens"] == written["limit"] or text["ended"] for text in written["texts"])


def test_it_says_what_evaluate_says(llama: Path, packed: Path, coarse: Path) -> None:
    alone = rarefy("evaluate", packed, "--against", llama, *FEW[:4], "--json").json()
    found = rarefy("compare", packed, coarse, "--original", llama, *FEW[:4], "--tokens", 0, "--json").json()
    assert found["networks"][0]["kl"] == pytest.approx(alone["kl"])
    assert found["networks"][0]["perplexity"] == pytest.approx(alone["perplexity"])
    assert found["pairs"][1]["difference"]["perplexity"] == pytest.approx(alone["difference"])
    assert "written" not in found["networks"][0]


def test_table(llama: Path, packed: Path, coarse: Path) -> None:
    said = rarefy("compare", packed, coarse, "--original", llama, *FEW, "--margin", "perplexity=1000")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0] == f"{llama} {packed} {coarse}"
    assert any(line.startswith("KL, nats a token, to the original 0 ") for line in lines)
    assert any(line.startswith("answers unlike the original's 0 % ") for line in lines)
    assert any(line.startswith("texts that end in a loop ") and line.count(" of 8") == 3 for line in lines)
    assert f"{packed} against {coarse} difference which means" in lines
    assert sum(line.startswith("perplexity worse by at most 1000 over 99.9 % sure holds") for line in lines) == 3
    kl = next(line for line in lines if line.startswith("KL, nats a token, to the original -"))
    assert kl.endswith(f"{packed} is better")
    assert "compared on the evaluation part of pydoc_data.topics: 4 blocks of 32 tokens" in said.err
    assert "warning: the intervals rest on 4 blocks" in said.err


def test_classifiers_without_an_original(mlp: str, packed_mlp: Path) -> None:
    artifact = f"cli_nets:mlp@{packed_mlp}"
    words = ("compare", artifact, mlp, "--data", "held.npz", "--margin", "accuracy=0.05")
    (pair,) = rarefy(*words, "--json").json()["pairs"]
    assert set(pair) == {"first", "second", "difference", "better", "changed", "mcnemar", "no_worse"}
    assert pair["mcnemar"]["p"] <= 1
    assert pair["no_worse"][0]["holds"]
    out = rarefy(*words).out
    for told in (
        "right where the other is wrong",
        "McNemar's exact test: p = ",
        "answers that differ",
        "accuracy worse",
    ):
        assert told in out


def test_encoders_on_scored_pairs(llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        BertModel(BertConfig(vocab_size=320, max_position_embeddings=64, **size)).save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / name)
    rng = np.random.default_rng(0)
    word = lambda: " ".join(rng.choice(["if", "assert", "while", "class", "def"], 3))  # noqa: E731
    rows = [f"{rng.integers(0, 6)}\t{word()}\t{word()}" for _ in range(70)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows))
    words = ("compare", tmp_path / "one", tmp_path / "two", "--data", tmp_path / "pairs.tsv")
    found = rarefy(*words, "--json").json()
    first, second = (network["spearman"]["value"] for network in found["networks"])
    assert found["pairs"][0]["difference"]["spearman"]["value"] == pytest.approx(first - second)
    said = rarefy(*words)
    assert "rank correlation" in said.out
    assert "KL" not in said.out
    assert "pairs.tsv: 70 pairs" in said.err


def test_text_that_one_was_calibrated_on_is_refused(llama: Path, coarse: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{i} and its {i % 7} neighbours" for i in range(600)))
    made = rarefy("compress", llama, tmp_path / "out", "-m", "quantize.gptq:group=16", "--data", text, "--length", 32)
    assert made.status == 0, made.err
    said = rarefy("compare", coarse, tmp_path / "out", "--data", text, *FEW)
    assert said.status == 2
    assert "were calibrated on" in said.error()


def test_other_tokenizers_are_refused(llama: Path, packed: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(llama, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"add_prefix_space":false', '"add_prefix_space":true'))
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true'))
    said = rarefy("compare", packed, tmp_path / "other", *FEW)
    assert said.status == 2
    assert "different tokens" in said.error()


def test_one_without_a_tokenizer_reads_what_the_others_read(llama: Path, packed: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((llama / name).read_bytes())
    for names in ((packed, tmp_path), (tmp_path, packed)):
        said = rarefy("compare", *names, "--original", llama, *FEW, "--json")
        assert said.status == 0, said.err
        found = {network["name"]: network["kl"]["value"] for network in said.json()["networks"]}
        assert found[str(tmp_path)] == 0
        assert found[str(packed)] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("packed",), "with itself"),
        (("packed", "packed"), "named twice"),
        (("packed", "llama", "--margin", "kl"), "--margin kl is not understood"),
        (("packed", "llama", "--margin", "speed=1"), "NAME one of kl, nll"),
        (("packed", "llama", "--margin", "kl=0.1"), "give the original"),
        (("packed", "llama", "--margin", "nll=-1"), "zero or more"),
        (("packed", "nowhere"), "does not exist"),
    ],
)
def test_wrong_calls_are_one_line_and_status_2(packed: Path, words: tuple[str, ...], told: str) -> None:
    said = rarefy("compare", *words, *FEW)
    assert said.status == 2
    assert told in said.error()
