"""The key of a run: the same for the same inputs wherever they lie, another for all that can change the bytes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import RECIPE, digest, run
from safetensors.torch import load_file, save_file
from torch import nn

import rarefy
from rarefy.errors import UsageError
from rarefy.files import manifest
from rarefy.files.safetensors import Payload, chunks_of
from rarefy.files.safetensors import write as write_tensors
from rarefy.model import Model
from rarefy.plan import identity
from rarefy.plan.data import Calibration
from rarefy.plan.identity import run_key
from rarefy.recipe import Recipe

SETTINGS: dict[str, Any] = {"seed": 0, "threads": 1, "device": "cpu", "dtype": "float32"}


def key(model: Any, recipe: Any = ("quantize.rtn",), data: Calibration | None = None, **settings: Any) -> str:
    opened = model if isinstance(model, Model) else rarefy.open(model)
    return run_key(opened, Recipe.from_arguments(recipe), data, {**SETTINGS, **settings})


def calibration(shape: tuple[int, ...] = (4, 8), name: str = "a.npz", fingerprint: str = "f") -> Calibration:
    return Calibration(np.arange(32).reshape(shape), fingerprint, name)


def test_nothing_depends_on_paths_progress_or_the_work_folder(
    llama: Path, ids: Path, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "elsewhere" / "renamed"
    data = tmp_path / "more" / "data" / ids.name
    data.parent.mkdir(parents=True)
    shutil.copytree(llama, model)
    shutil.copyfile(ids, data)
    run(model, tmp_path / "another", data, work_dir=tmp_path / "work")
    assert digest(tmp_path / "another") == expected
    monkeypatch.chdir(tmp_path)
    run("elsewhere/renamed", Path("third"), Path("more/data") / ids.name)
    assert digest(tmp_path / "third") == expected
    for file in (tmp_path / "third").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()


def test_the_manifest_says_no_path(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "out", ids)
    sections = manifest.read(tmp_path / "out")
    text = json.dumps({name: part for name, part in sections.items() if name != "files"})
    assert str(tmp_path) not in text and str(llama) not in text and str(ids.parent) not in text
    assert sections["calibration"] == [
        {"name": ids.name, "shape": [8, 16], "fingerprint": sections["calibration"][0]["fingerprint"]}
    ]
    assert sections["run"]["threads"] == 1
    assert set(sections["run"]) == {"key", "seed", "threads", "device", "dtype", "versions"}


def test_settings_and_data_are_in_the_key(llama: Path) -> None:
    keys = [
        key(llama),
        key(llama, seed=1),
        key(llama, threads=2),
        key(llama, dtype="bfloat16"),
        key(llama, device="cuda"),
        key(llama, ["quantize.rtn:bits=3"]),
        key(llama, ["quantize.rtn", "quantize.rtn"]),
        key(llama, data=calibration()),
        key(llama, data=calibration((8, 4))),
        key(llama, data=calibration(name="b.npz")),
        key(llama, data=calibration(fingerprint="g")),
        key(llama, data=dataclasses.replace(calibration(), labels=np.arange(4))),
        key(llama, data=dataclasses.replace(calibration(), labels=np.arange(1, 5))),
    ]
    assert len(set(keys)) == len(keys)
    assert key(llama) == keys[0]
    assert key(llama, threads=2) == keys[2]


@pytest.mark.parametrize("change", ["a weight", "order", "config", "side file", "new side file", "dtype"])
def test_the_network_is_in_the_key(change: str, llama: Path, tmp_path: Path) -> None:
    before = key(llama)
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    assert key(folder) == before
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "a weight":
        weights[name][3, 5] += 1e-7
    elif change == "dtype":
        weights[name] = weights[name].bfloat16()
    elif change == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    elif change == "side file":
        (folder / "notes" / "about.txt").write_text("other\n")
    else:
        (folder / "more.txt").write_text("")
    if change == "order":
        # Records are written in the order in which the tensors lie in the file.
        payloads = {n: Payload("F32", tuple(w.shape), w.nbytes, chunks_of(w.numpy())) for n, w in weights.items()}
        write_tensors(folder / "model.safetensors", reversed(payloads.items()), {"format": "pt"})
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert key(folder) != before


class Strided(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=stride)


def test_the_form_of_a_module_is_in_the_key() -> None:
    made = []
    for stride in (1, 2):
        torch.manual_seed(0)
        made.append(key(Model.from_module(Strided(stride))))
    assert made[0] != made[1]


def test_code_of_the_users_own_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef make():\n    return Own(3, 3)\nclass Own(nn.Linear):\n    factor = {}\n"
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = []
    for factor in (1, 2):
        (tmp_path / "own_network.py").write_text(source.format(factor))
        import own_network  # type: ignore[import-not-found]

        digests.append(identity.foreign_source([own_network.Own, nn.Linear]))
    assert digests[0].keys() == {"own_network"}
    assert digests[0] != digests[1]


def test_what_an_artifact_says_of_itself_is_in_the_key(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "one", ids)
    model = rarefy.open(tmp_path / "one")
    assert key(model) != key(dataclasses.replace(model, history=()))
    assert key(model) != key(dataclasses.replace(model, sections={}))
    assert key(model) == key(tmp_path / "one")


def test_blocks_and_length_are_in_the_key(llama: Path, tmp_path: Path) -> None:
    """32 ids are 4 blocks of 8 or 8 of 4: the same bytes, another calibration."""
    for name, shape in (("a", (4, 8)), ("b", (8, 4))):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "ids.npz", x=np.arange(32).reshape(shape))
    run(llama, tmp_path / "out", tmp_path / "a" / "ids.npz")
    with pytest.raises(UsageError, match="other inputs"):
        run(llama, tmp_path / "out", tmp_path / "b" / "ids.npz")


def test_recompressing_an_artifact_again_gives_the_same(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "one", ids, ["prune.magnitude:n=2,m=4"])
    for name in ("two", "three"):
        run(tmp_path / "one", tmp_path / name, ids, RECIPE[1:])
    assert digest(tmp_path / "two") == digest(tmp_path / "three")
    assert [step["method"] for step in manifest.read(tmp_path / "two")["history"]] == [
        "prune.magnitude",
        "quantize.gptq",
    ]
