"""Two epochs of LeNet-300-100 through the whole bench, on digits that a package carries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import deep_compression
import figures
import networks
import rarefy
from deep_compression import Row
from rarefy.evidence import Evidence
from rarefy.methods.recover.retrain import Retrain
from rarefy.model import Model

SHORT = deep_compression.rounds(
    [{"ip*.weight": 0.8}, {"ip1.weight": 0.92, "ip2.weight": 0.9}],
    {"ip*.weight": 5},
    [1, 1, 0.1],
    "batch=32,rate=0.01,soft=0.5,augment=shift",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder like the real one: digits of 8x8 pixels in the place of MNIST, and a LeNet that learnt them."""
    folder = tmp_path_factory.mktemp("data")
    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8).astype(np.uint8) * 15, np.ones((1, 3, 3), np.uint8))
    x = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    (folder / "mnist").mkdir()
    np.savez(folder / "mnist" / "mnist.npz", x_train=x[:1300], y_train=y[:1300], x_test=x[1300:], y_test=y[1300:])
    torch.manual_seed(0)
    seen = Evidence((x[:1200, None] / np.float32(256)), labels=y[:1200].astype(np.int64))
    net = Retrain(epochs=4, batch=32, rate=0.03, soft=0.0).apply(Model.from_module(networks.lenet300().eval()), seen)
    (folder / "cnn").mkdir()
    save_file(net.module().state_dict(), folder / "cnn" / "lenet300100_original.safetensors")
    return folder


def test_one_seed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "DATA", folder)
    monkeypatch.setattr(deep_compression, "HELD_OUT", 100)
    rows = {"lenet300": {"Deep Compression": Row(SHORT, "huffman")}, "lenet5": {"later": Row(())}, "resnet20": {}}
    monkeypatch.setattr(deep_compression, "ROWS", rows)
    out = tmp_path / "out.json"
    words = ["bench", "lenet300/*", "--cache", str(tmp_path), "--out", str(out), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", words)
    deep_compression.main()
    result = json.loads(out.read_text())
    row = result["rows"]["lenet300"]["Deep Compression"]
    (run,) = row["runs"]
    artifact = deep_compression.place("lenet300", rows["lenet300"]["Deep Compression"], 0, tmp_path)
    assert run["bytes"] == sum(file.stat().st_size for file in artifact.glob("*.safetensors"))
    assert run["ratio"] > 25 and run["original_error"]["value"] < 15
    assert run["error"]["value"] < run["original_error"]["value"] + 10
    assert run["worse"]["low"] < run["worse"]["value"] < run["worse"]["high"]
    assert 0 < run["kl"]["value"] < 1
    assert result["missing"] == ["lenet300/Deep Compression, 4 of 5 seeds", "lenet5/later, 5 of 5 seeds"]
    shown = figures.deep_compression(result)
    assert f"| **Deep Compression** | {run['bytes'] / 1e3:.2f} KB |" in shown and "8.56 KB | 124x" in shown

    monkeypatch.setattr(rarefy, "compress", None)  # what was made is not made again
    deep_compression.main()
    assert json.loads(out.read_text()) == result


def test_the_papers_pipeline_is_a_recipe() -> None:
    from rarefy.recipe import Recipe

    for network, _, row in deep_compression.every_row():
        names = [method.name() for method in Recipe.from_arguments(row.methods).flat()]
        assert names and network in networks.FILES
        if row.coder == "huffman":
            assert names[-1] == "recover.retrain" and "quantize.kmeans" in names and names[0] == "prune.magnitude"
