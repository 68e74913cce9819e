"""`rarefy inspect`: where the bytes are, what is understood and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command import rarefy


def test_network(llama: Path) -> None:
    found = rarefy("inspect", llama, "--json").json()
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["family"] == "llama"
    assert found["parts"] == ["model.layers.0", "model.layers.1"]
    assert found["ties"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert found["bytes"] == (llama / "model.safetensors").stat().st_size
    assert found["bpw"] == pytest.approx(8 * found["bytes"] / found["weights"])
    kinds = {tensor["name"]: tensor["kind"] for tensor in found["tensors"]}
    assert kinds["model.embed_tokens.weight"] == "embedding"
    assert kinds["model.layers.0.mlp.up_proj.weight"] == "linear"
    assert kinds["model.norm.weight"] == "vector"
    assert found["unused"] == []
    assert "tokenizer.json" in found["side_files"]


def test_table(llama: Path) -> None:
    said = rarefy("inspect", llama)
    assert "every matrix is understood" in said.out
    assert "model.layers.1 " in said.out
    assert "model.layers.1.mlp.up_proj.weight" not in said.out
    assert "model.layers.1.mlp.up_proj.weight" in rarefy("inspect", llama, "--layers").out


def test_artifact_has_its_recipe_bits_and_damage(packed: Path) -> None:
    found = rarefy("inspect", packed, "--json").json()
    size = (packed / "model.safetensors").stat().st_size
    assert sum(found["roles"].values()) == size == found["bytes"]
    coded = {t["name"]: t for t in found["tensors"]}["model.layers.0.mlp.up_proj.weight"]
    assert coded["code"] == "4-bit grid, group 16"
    assert coded["damage"] > 0
    assert 8 * coded["bytes"] < 16 * 16 * 32
    assert found["original"] == 4 * found["weights"]
    assert found["steps"][0]["method"] == "quantize.gptq"
    assert Path(found["recipe"]) == packed / "recipe.toml"
    said = rarefy("inspect", packed).out
    assert f"-r {packed / 'recipe.toml'}" in said
    assert "the calibration part of pydoc_data.topics, 4 x 32" in said
    assert "damage" in said


def test_factory_with_and_without_weights(mlp: str, packed_mlp: Path) -> None:
    bare = rarefy("inspect", "cli_nets:mlp", "--json").json()
    assert bare["bytes"] == 4 * bare["weights"]
    assert rarefy("inspect", mlp, "--json").json()["bytes"] > bare["bytes"]
    through = rarefy("inspect", f"cli_nets:mlp@{packed_mlp}", "--json").json()
    assert through["steps"][0]["method"] == "quantize.gptq"


def test_what_is_not_understood_or_not_used_is_named(here: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    (here / "cli_odd.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.mixing, self.layer = nn.Parameter(torch.zeros(4, 4)), nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x @ self.mixing)\n"
    )
    state = {"mixing": torch.zeros(4, 4), "layer.weight": torch.zeros(2, 4), "layer.bias": torch.zeros(2)}
    save_file({**state, "left.over": torch.zeros(3)}, tmp_path / "odd.safetensors")
    said = rarefy("inspect", f"cli_odd:Odd@{tmp_path / 'odd.safetensors'}")
    assert "not understood, stays dense: mixing, a parameter of Odd" in said.out
    assert "not used: left.over" in said.out
    assert "one segment, held whole" in said.out
