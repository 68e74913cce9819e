"""The plane's arithmetic, on files made here: what a peer's file stands for, where its bytes went, who is ahead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import plane

sys.path.insert(0, str(Path(plane.__file__).parent / "peers"))

import dense
import llamacpp_types


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_words_unpack_to_the_codes_that_were_packed(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (96, 5))
    words = np.zeros((96 * bits // 32, 5), np.int64)
    for column in range(5):
        stream = sum(int(code) << (i * bits) for i, code in enumerate(codes[:, column]))
        words[:, column] = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(len(words))]
    packed = torch.from_numpy(words.astype(np.uint32).view(np.int32))
    assert torch.equal(dense.unpacked(packed, bits), torch.from_numpy(codes))


def test_rows_turn_back_from_llama_cpps_order() -> None:
    """`permute` of convert_hf_to_gguf.py, literally, and back."""
    heads, weight = 3, np.arange(24 * 5, dtype=np.float32).reshape(24, 5)
    permuted = weight.reshape(heads, 2, 24 // heads // 2, 5).swapaxes(1, 2).reshape(weight.shape)
    np.testing.assert_array_equal(llamacpp_types.in_halves(permuted, heads), weight)


def test_every_parameter_has_a_name_in_a_gguf(llama: LlamaForCausalLM) -> None:
    there = {name for name, _ in llama.named_parameters()}
    names = [f"{name}.weight" for name in ("token_embd", "output", "output_norm")]
    names += [
        f"blk.{layer}.{name}.weight"
        for layer in range(2)
        for name in llamacpp_types.NAMES
        if name.startswith(("attn", "ffn"))
    ]
    assert {llamacpp_types.hugging_face(name) for name in names} == there


def test_bytes_go_where_the_names_say(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.mlp.up_proj.qweight": torch.zeros(10, dtype=torch.int32),
        "model.layers.0.mlp.up_proj.scales": torch.zeros(3, dtype=torch.float16),
        "model.embed_tokens.weight": torch.zeros(7, dtype=torch.float16),
        "model.norm.weight": torch.zeros(5),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    assert dense.spent_safetensors(tmp_path) == {"file": size, "linear": 46, "embedding": 14}


def test_weights_of_another_shape_are_refused(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    llama.save_pretrained(tmp_path / "original")
    (tmp_path / "out").mkdir()
    weights = dict(load_file(tmp_path / "original" / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1]
    with pytest.raises(ValueError, match=r"1 tensors are not the network's, the first model\.norm\.weight"):
        dense.save(tmp_path / "original", tmp_path / "out", weights)


@pytest.fixture
def work(tmp_path: Path, llama: LlamaForCausalLM) -> Path:
    """A network, a copy whose embedding is off, and one whose linear layers are off."""
    llama.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for name, part, size in (("embedding", "embed_tokens", 1000), ("linear", "up_proj", 3000)):
        (tmp_path / name).mkdir()
        moved = {key: w * (1.25 if part in key else 1.0) for key, w in weights.items()}
        dense.save(tmp_path / "model", tmp_path / name, moved)
        cost = {"bytes": {"file": size, "linear": size // 2, "embedding": size // 4}}
        (tmp_path / name / "run.json").write_text(json.dumps(cost))
    return tmp_path


def test_linear_layers_alone_do_not_feel_the_embedding(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 64, (4, 8))
    monkeypatch.setattr(plane, "CHUNK", 3)
    monkeypatch.setattr(plane, "PLANES", {"whole": ("wikipedia",), "linear": ("wikipedia",)})
    copies = {"embedding": work / "embedding", "linear": work / "linear"}
    plane.measure_all(work, work / "model", copies, {"wikipedia": ids})

    found = plane.report(work, work / "model", copies, [*copies, "absent"], {"wikipedia": ids})
    kl = {(name, p): found["points"][name][p]["kl"]["wikipedia"]["value"] for name in copies for p in plane.PLANES}
    assert kl["embedding", "linear"] == pytest.approx(0, abs=1e-6)
    assert kl["embedding", "whole"] > 1e-4
    assert kl["linear", "linear"] == pytest.approx(kl["linear", "whole"], rel=1e-4)
    assert found["missing"] == ["absent"]

    monkeypatch.setattr(plane, "measure", None)  # nothing is left to measure
    plane.measure_all(work, work / "model", copies, {"wikipedia": ids})


def test_one_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    script = "import pathlib, sys; pathlib.Path(sys.argv[3], 'run.json').write_text('{}')"
    made = [
        plane.Contestant("fails", (sys.executable, "-c", "raise SystemExit(1)")),
        plane.Contestant("absent", (str(tmp_path / "python"),)),
        plane.Contestant("works", (sys.executable, "-c", script)),
    ]
    outs = {each.name: tmp_path / each.name for each in made}
    assert plane.make(made, tmp_path, tmp_path / "ids.npy", outs) == ["fails", "absent"]
    assert [name for name, out in outs.items() if out.exists()] == ["works"]


def test_a_point_stands_against_the_largest_file_that_is_no_larger() -> None:
    random = np.random.default_rng(0)
    peer = random.uniform(0.9, 1.1, 64)
    sizes = {"rarefy-2": 10, "rarefy-3": 20, "rarefy-4": 30, "tiny": 9, "beaten": 20, "ahead": 29}
    points = {name: {"whole": {"bytes": size}} for name, size in sizes.items()}
    blocks = {"rarefy-2": 0.9 * peer, "rarefy-3": 0.4 * peer, "rarefy-4": 0.1 * peer, "tiny": peer, "beaten": peer}
    blocks["ahead"] = 0.5 * peer
    found = plane.against("whole", points, {(name, "whole", "sts"): kl for name, kl in blocks.items()}, "sts")
    assert found["tiny"] == {"rarefy": None, "holds": False}
    assert found["beaten"]["rarefy"] == found["ahead"]["rarefy"] == "rarefy-3"
    assert found["beaten"]["kl over the peer's"]["value"] == pytest.approx(0.4)
    assert (found["beaten"]["holds"], found["ahead"]["holds"]) == (True, False)


def test_a_tool_is_metered_alone() -> None:
    busy, idle = (llamacpp_types.run(sys.executable, "-c", f"sum(range({n}))") for n in (3 * 10**7, 1))
    assert busy["processor_s"] > 2 * idle["processor_s"]
    assert idle["peak_bytes"] > 1 << 20
    with pytest.raises(subprocess.CalledProcessError):
        llamacpp_types.run(sys.executable, "-c", "raise SystemExit(3)")
