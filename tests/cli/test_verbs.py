"""generate, verify, unpack and methods."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli.command import rarefy


def test_generate_streams_the_continuation_only(packed: Path) -> None:
    said = rarefy("generate", packed, "if x:", "--tokens", 5)
    assert said.status == 0
    assert said.out.endswith("\n")
    assert not said.out.startswith("if x:")
    assert rarefy("generate", packed, "if x:", "--tokens", 5).out == said.out


def test_generate_samples_by_seed(packed: Path) -> None:
    one, same, other = (rarefy("generate", packed, "if", "--sample", "--seed", seed).out for seed in (1, 1, 2))
    assert one == same != other


def test_generate_in_another_process_says_the_same(packed: Path) -> None:
    here, there = (rarefy("generate", model, "if x:", "--tokens", 5) for model in (packed, f"{packed}@transformers"))
    assert (there.status, there.out) == (0, here.out)
    said = rarefy("generate", f"{packed}@transformers", "if x:", "--sample")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("error: ") and "--sample and --packed are Rarefy's" in said.err


def test_generate_in_onnx_runtime(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert rarefy("export", llama, tmp_path / "onnx", "--to", "onnx").status == 0
    here, there = (rarefy("generate", model, "if x:", "--tokens", 5) for model in (llama, tmp_path / "onnx"))
    assert here.status == 0 and here.out
    assert (there.status, there.out) == (0, here.out), there.err


def test_generate_needs_a_language_model(packed_mlp: Path) -> None:
    said = rarefy("generate", f"cli_nets:mlp@{packed_mlp}", "hello")
    assert said.status == 2
    assert "tokenizer" in said.error()


def test_verify_whole(packed: Path) -> None:
    said = rarefy("verify", packed)
    assert said.status == 0
    assert said.out.startswith("OK: ")
    found = rarefy("verify", packed, "--json").json()
    files = [path for path in packed.rglob("*") if path.is_file()]
    assert found == {
        "out": str(packed),
        "ok": True,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "damage": [],
    }


def test_verify_names_every_damaged_file(packed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(packed, tmp_path / "copy")
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 4
    weights.write_bytes(data)
    (copy / "tokenizer.json").write_text("{}")
    said = rarefy("verify", copy)
    assert said.status == 1
    assert "tokenizer.json: " in said.out
    assert "model.safetensors, header: " in said.out  # a network this small has one checksum
    assert "is damaged" in said.err
    found = rarefy("verify", copy, "--json")
    assert found.status == 1
    assert {damage["file"] for damage in found.json()["damage"]} == {"tokenizer.json", "model.safetensors"}
    assert all(set(damage) == {"file", "what", "tensor", "where"} for damage in found.json()["damage"])


@pytest.mark.parametrize("what", ["llama", "missing", "cli_nets.py"])
def test_verify_needs_an_artifact(llama: Path, here: Path, what: str) -> None:
    said = rarefy("verify", here / what)
    assert said.status == 2
    assert "is not an artifact" in said.error()


def test_unpack_gives_ordinary_safetensors(packed: Path, llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    import rarefy as library

    said = rarefy("unpack", packed, tmp_path / "dense")
    assert said.status == 0
    assert said.out == f"{tmp_path / 'dense'}\n"
    dense, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "dense", llama))
    assert dense.keys() == original.keys()
    restored = library.open(packed).module().state_dict()
    assert all(np.array_equal(dense[name], restored[name].numpy()) for name in dense)
    again = rarefy("unpack", packed, tmp_path / "dense")
    assert again.status == 2
    assert "exists" in again.error()


def test_methods_are_listed() -> None:
    listed = rarefy("methods", "--json").json()["methods"]
    assert {"prune.magnitude", "quantize.gptq", "quantize.rtn"} <= {method["name"] for method in listed}
    assert all({"name", "summary", "needs", "settings"} <= set(method) for method in listed)
    said = rarefy("methods")
    assert all(method["name"] in said.out for method in listed)


def test_method_has_a_page_from_its_fields() -> None:
    (gptq,) = rarefy("methods", "quantize.gptq", "--json").json()["methods"]
    bits = next(setting for setting in gptq["settings"] if setting["name"] == "bits")
    assert (bits["type"], bits["default"], bits["low"], bits["high"]) == ("integer", 4, 2, 8)
    assert gptq["needs"] == ["second moment"]
    page = rarefy("methods", "quantize.gptq").out
    assert "act_order" in page
    assert "2 to 8" in page


def test_unknown_method() -> None:
    said = rarefy("methods", "quantize.gptk")
    assert said.status == 2
    assert "did you mean quantize.gptq" in said.error()


def test_method_of_ones_own(here: Path, llama: Path, tmp_path: Path) -> None:
    (here / "cli_method.py").write_text(
        '"""Mine."""\n'
        "from dataclasses import dataclass\n"
        "from rarefy.method import PerTensor, setting\n"
        "@dataclass(frozen=True)\n"
        "class Mine(PerTensor):\n"
        '    """Leave every weight as it is."""\n'
        '    strength: float = setting(0.5, "of nothing", low=0)\n'
        "    def encode(self, site):\n"
        "        return site.code\n"
    )
    assert "Leave every weight as it is." in rarefy("methods", "cli_method").out
    said = rarefy("compress", llama, tmp_path / "out", "-m", "cli_method:strength=1", "--json")
    assert said.json()["steps"][0]["method"] == "cli_method"
