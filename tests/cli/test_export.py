"""`rarefy export`: what it writes and says, and what it refuses, each in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.command import rarefy

FEW = ("--blocks", 2, "--length", 32)


def test_dense(packed: Path, tmp_path: Path) -> None:
    said = rarefy("export", packed, tmp_path / "out", "--to", "safetensors:dtype=bfloat16", *FEW)
    assert said.status == 0, said.err
    assert "proved in" in said.out
    assert "conversion" in said.out
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_gguf_carries_the_tokenizer(packed: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    said = rarefy("export", packed, tmp_path / "out", "--to", "gguf:type=f16", *FEW, "--json")
    assert said.status == 0, said.err
    found = said.json()
    assert found["target"] == "gguf"
    assert found["folder"] == str(tmp_path / "out")
    assert found["bytes"] == (tmp_path / "out" / "model.gguf").stat().st_size
    assert found["proofs"][0]["kl"] < 1e-6
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 320
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 0


def test_an_engine_that_is_not_there_is_said(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    said = rarefy("export", packed, tmp_path / "out", "--to", "gguf", *FEW, "--python", "/bin/false")
    assert said.status == 0, said.err
    told = "not proved in llama.cpp: llama-cpp-python is not installed in the environment of /bin/false"
    assert told in said.err.replace("\n", " ")


def test_dry_run_writes_nothing(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    said = rarefy("export", packed, tmp_path / "out", "--to", "compressed-tensors", "--dry-run", "--json")
    found = said.json()
    assert found["bytes"] is None
    assert found["proofs"] == []
    assert found["forms"]["4 bits, groups of 16, asymmetric"] == 14
    assert found["inexact"] == {}
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_llama_cpp_has_not(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = shutil.copytree(llama, tmp_path / "llama")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = rarefy("export", folder, tmp_path / "out", "--to", "gguf", *FEW)
    assert said.status == 2
    assert "it cuts text by Whitespace" in said.error()
    assert not (tmp_path / "out").exists()
    without = rarefy("export", folder, tmp_path / "out", "--to", "gguf:tokenizer=false", *FEW)
    assert without.status == 0, without.err


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--to", "tflite"), 2, "there is no export to tflite; there are safetensors, compressed-tensors, gguf, onnx"),
        (("--to", "compressed-tensors:bits=3"), 2, "bits=3: it must be one of None, 4, 8"),
        (("--to", "gguf:type=f16", "--max-kl", "1e-12"), 1, "conversion costs"),
        ((), 2, "--to"),
    ],
)
def test_refusals_are_one_line(packed: Path, tmp_path: Path, words: tuple[str, ...], status: int, told: str) -> None:
    said = rarefy("export", packed, tmp_path / "out", *words, *FEW)
    assert said.status == status
    assert told in said.error()
    assert not list(tmp_path.iterdir())


def test_what_stands_there_is_left_alone(packed: Path, tmp_path: Path) -> None:
    said = rarefy("export", packed, tmp_path, "--to", "safetensors", *FEW)
    assert said.status == 2
    assert "exists" in said.error()
