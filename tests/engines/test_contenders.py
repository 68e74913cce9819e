"""Which network runs in which engine, and what of its file a token touches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rarefy.engines.contenders import ENGINES, Contender, Engine, contender, interpreter
from rarefy.engines.touched import touched
from rarefy.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders and files of every kind; nothing is read."""
    for name in (
        "dense/model.safetensors",
        "both/model.safetensors",
        "both/model.gguf",
        "llama/q.gguf",
        "two/a.gguf",
        "two/b.gguf",
        "usual/model.onnx",
        "usual/decoder.onnx",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "source", "engine"),
    [
        ("dense", "dense", "transformers"),
        ("both", "both", "transformers"),
        ("both@llama.cpp", "both/model.gguf", "llama.cpp"),
        ("llama", "llama/q.gguf", "llama.cpp"),
        ("two/a.gguf", "two/a.gguf", "llama.cpp"),
        ("usual", "usual/model.onnx", "onnx"),
        ("usual/decoder.onnx", "usual/decoder.onnx", "onnx"),
        ("dense@packed", "dense", "packed"),
        ("nets:mlp@mlp.safetensors", "nets:mlp@mlp.safetensors", "transformers"),
        ("nets:mlp@mlp.safetensors@packed", "nets:mlp@mlp.safetensors", "packed"),
    ],
)
def test_named(name: str, source: str, engine: str) -> None:
    chosen = name.endswith(("@packed", "@llama.cpp"))
    assert contender(name) == Contender(name, source, engine, "float32", chosen)


@pytest.mark.usefixtures("here")
def test_types() -> None:
    assert contender("dense@transformers:bfloat16").dtype == "bfloat16"
    assert contender("dense", "float16").dtype == "float16"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dense@onnx", "onnx cannot run dense: it has no .onnx; .*rarefy export --to onnx"),
        ("two", "llama.cpp cannot run two: it has 2 of them; name one"),
        ("nowhere@llama.cpp", "nowhere does not exist; give a directory"),
        ("dense@transformers:int8", "is not understood"),
        ("both@llama.cpp:bfloat16", "is not understood"),
    ],
)
def test_refused(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        contender(name)


def test_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter("transformers", []) == sys.executable
    monkeypatch.setitem(ENGINES, "mine", Engine("my-engine", "no_such_module", "mine.py"))
    with pytest.raises(UsageError, match="my-engine is not installed here; --python"):
        interpreter("mine", [])
    with pytest.raises(UsageError, match="not installed here or in the environment of /bin/false"):
        interpreter("mine", ["/bin/false"])
    with pytest.raises(UsageError, match="--python /no/python cannot be run: No such file"):
        interpreter("mine", ["/no/python"])
    assert interpreter("mine", ["/bin/false", "/bin/true"]) == "/bin/true"


@pytest.mark.parametrize(
    ("others", "bytes"),
    [
        ({}, 4 * (60 + 20)),  # a table that is the head too
        ({"output.weight": 60}, 4 * (60 + 20)),  # and one that is not
        ({"blk.0.ffn_up_exps.weight": 5}, None),
    ],
)
def test_what_a_token_touches_of_a_gguf(others: dict[str, int], bytes: int | None, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, size in ({"token_embd.weight": 60, "blk.0.attn_q.weight": 20} | others).items():
        writer.add_tensor(name, np.zeros(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert touched(str(tmp_path / "a.gguf")) == bytes
