"""The memory bench: what it writes is a Llama, and what it ran already it does not run again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import memory
from rarefy.opening import open_model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 48, "INNER": 64, "HEADS": 6, "KEY_HEADS": 2, "VOCABULARY": 80}.items():
        monkeypatch.setattr(memory, name, value)


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_a_llama_with_a_shard_a_block(tied: bool, tmp_path: Path) -> None:
    size = memory.make(tmp_path / "m", 2, tied)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 3
    model = open_model(tmp_path / "m")
    assert size == sum(2 * code.decode().size for code in model.codes.values())
    assert set(model.dtypes.values()) == {"BF16"} and bool(model.skeleton.ties) == tied
    down = model.codes["model.layers.1.mlp.down_proj.weight"].decode()
    assert down.shape == (48, 64) and np.std(down) == pytest.approx(1 / 8, rel=0.05)
    assert (model.codes["model.norm.weight"].decode() == 1).all()


def test_runs_in_the_file_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fresh(model: Path, data: Path, out: Path, recipe: str) -> dict:
        asked.append((len(list(model.glob("*.safetensors"))) - 1, recipe, np.load(data)["x"].shape))
        out.mkdir()
        return {"peak_bytes": 10**9 + len(asked)}

    monkeypatch.setattr(memory, "fresh", fresh)
    out = tmp_path / "memory.json"
    for depths in (["2"], ["2", "3"]):
        monkeypatch.setattr(sys, "argv", ["memory.py", "--depths", *depths, "--tokens", "2", "8", "--out", str(out)])
        memory.main()
    assert [(depth, recipe) for depth, recipe, _ in asked] == [(d, r) for d in (2, 3) for r in memory.RECIPES.values()]
    assert {shape for *_, shape in asked} == {(2, 8)}
    report = json.loads(out.read_text())
    assert report["met"] and set(report["grows"]) == set(memory.RECIPES) and len(report["runs"]) == 4
