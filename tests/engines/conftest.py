"""Tiny networks, made on the spot, as an artifact and as the dense checkpoint it must restore to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rarefy.codes import Dense, Grid
from rarefy.engines import hook
from rarefy.engines.tensors import TORCH, tensor
from rarefy.files import container, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rarefy.codes import Code

NAMES = {dtype: name for name, dtype in TORCH.items()}


class Pair(NamedTuple):
    artifact: Path
    dense: Path


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hook.install()


def code_of(values: torch.Tensor, grid: bool) -> Code:
    """Matrices on a 4-bit grid of groups of 8 if asked for, the rest dense."""
    name = NAMES[values.dtype]
    if not grid or values.ndim < 2:
        raw = values.view(torch.int16).numpy().view("<u2") if name == "BF16" else values.numpy()
        return Dense.of(raw, name) if name != "BF16" else _bf16(raw)
    w = values.float().reshape(values.shape[0], -1).numpy()
    group = 8 if w.shape[1] % 8 == 0 else w.shape[1]
    groups = w.reshape(len(w), -1, group)
    scale = np.abs(groups).max(2) / 7 + 1e-8
    q = np.clip(np.rint(groups / scale[:, :, None]) + 8, 0, 15).astype(np.uint8).reshape(w.shape)
    return Grid(q, Dense.of(scale, "F16"), None, bits_per_symbol=4, group=group, shape=tuple(values.shape))


def _bf16(raw: np.ndarray) -> Dense:
    from rarefy.codes.dtypes import DTYPES

    return Dense(lambda: raw, raw.shape, DTYPES["BF16"])


def as_artifact(folder: Path, grid: bool, single: bool) -> None:
    """Make the dense checkpoint in `folder` an artifact; the dense one that it stands for goes to `folder`-dense."""
    config = json.loads((folder / "config.json").read_text())
    dense = folder.with_name(folder.name + "-dense")
    dense.mkdir()
    for side in folder.glob("*.json"):
        (dense / side.name).write_text(side.read_text())
    for file in folder.glob("*.safetensors"):
        codes = {key: (code_of(value, grid), value.dtype) for key, value in load_file(file).items()}
        records = {key: record.encode(code, NAMES[dtype]) for key, (code, dtype) in codes.items()}
        if single:
            assert container.write(folder, records.items()) == (file.name,)
        else:
            save_file({k: torch.frombuffer(bytearray(r), dtype=torch.uint8) for k, r in records.items()}, file)
        restored = {key: tensor(code, dtype).contiguous() for key, (code, dtype) in codes.items()}
        save_file(restored, dense / file.name, {"format": "pt"})
    config["quantization_config"] = {"quant_method": "rarefy", "version": 1}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Pair]:
    """write(model, grid=False, shard="5GB", single=False) -> the artifact's folder and the dense one's."""

    def write(model: torch.nn.Module, grid: bool = False, shard: str = "5GB", single: bool = False) -> Pair:
        folder = tmp_path / "artifact"
        model.save_pretrained(folder, max_shard_size=shard)
        as_artifact(folder, grid, single)
        return Pair(folder, tmp_path / "artifact-dense")

    return write
