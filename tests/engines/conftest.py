"""Tiny networks, made on the spot, as an artifact and as the dense checkpoint it must restore to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rarefy.codes import Dense, Grid
from rarefy.codes.dtypes import DTYPES
from rarefy.engines import hook
from rarefy.engines.tensors import TORCH, tensor
from rarefy.files import container, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

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
        if name != "BF16":
            return Dense.of(values.numpy(), name)
        bits = values.view(torch.int16).numpy().view("<u2")
        return Dense(lambda: bits, bits.shape, DTYPES["BF16"])
    w = values.float().reshape(values.shape[0], -1).numpy()
    group = 8 if w.shape[1] % 8 == 0 else w.shape[1]
    groups = w.reshape(len(w), -1, group)
    scale = np.abs(groups).max(2) / 7 + 1e-8
    q = np.clip(np.rint(groups / scale[:, :, None]) + 8, 0, 15).astype(np.uint8).reshape(w.shape)
    return Grid(q, Dense.of(scale, "F16"), None, bits_per_symbol=4, group=group, shape=tuple(values.shape))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Pair]:
    """write(model, grid=False, shard=10**9, single=False) -> the artifact's folder and the dense one's."""

    def write(model: PreTrainedModel, grid: bool = False, shard: int = 10**9, single: bool = False) -> Pair:
        pair = Pair(tmp_path / "artifact", tmp_path / "dense")
        model.save_pretrained(pair.dense)
        weights = load_file(pair.dense / "model.safetensors")
        codes = {key: code_of(value, grid) for key, value in weights.items()}
        restored = {key: tensor(code, weights[key].dtype) for key, code in codes.items()}
        save_file(restored, pair.dense / "model.safetensors", {"format": "pt"})
        pair.artifact.mkdir()
        records = [(key, record.encode(code, NAMES[weights[key].dtype])) for key, code in codes.items()]
        container.write(pair.artifact, records, shard_bytes=shard, single_bytes=10**9 if single else 0)
        config = json.loads((pair.dense / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "rarefy", "version": 1}
        (pair.artifact / "config.json").write_text(json.dumps(config))
        return pair

    return write
