"""Half-quadratic quantization by hqq, in that project's own environment (hqq==0.2.8):

    PEER_PYTHON hqq_groups.py MODEL TOKENS.npy OUT --bits 4

Groups of 64, the package's own settings otherwise; it needs no calibration and reads no tokens. What it leaves alone
(embedding, norms) is in float16. OUT gets the decoded weights and run.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dense
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from hqq.models.hf.base import AutoHQQHFModel
from meter import Meter
from torch import nn

GROUP = 64


def layers(model: nn.Module) -> dict[str, HQQLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, HQQLinear)}


def tensors(state: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every tensor in nested dictionaries."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{name}.{key}")


def spent(file: Path) -> dict[str, int]:
    """Where the bytes of a saved model went; a tied tensor is stored once."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    once = {tensor.data_ptr(): (name, tensor.nbytes) for name, tensor in tensors(state)}
    return dense.spent(file.stat().st_size, once.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help="not read")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    asked = parser.parse_args()
    meter = Meter()
    with meter.part("load"):
        model = dense.network(asked.model, dtype=torch.float16)
    config = BaseQuantizeConfig(nbits=asked.bits, group_size=GROUP)
    with meter.part("quantize"):
        where = {name: "cpu" for name, _ in model.named_modules()}  # of networks that hqq does not know, layer by layer
        AutoHQQHFModel.quantize_model(model, quant_config=config, compute_dtype=torch.float16, device=where)
    with meter.part("write"), tempfile.TemporaryDirectory() as folder:
        AutoHQQHFModel.save_quantized(model, folder)
        found = spent(Path(folder) / "qmodel.pt")
    there = dense.header(asked.model / "model.safetensors")
    weights = {name: p.detach() for name, p in model.named_parameters() if name in there}
    weights |= {f"{name}.weight": layer.dequantize().detach() for name, layer in layers(model).items()}
    weights |= {f"{name}.bias": layer.bias for name, layer in layers(model).items() if layer.bias is not None}
    dense.save(asked.model, asked.out, weights)
    settings = {"bits": asked.bits, "group": GROUP, "axis": config["weight_quant_params"]["axis"]}
    meter.write(asked.out / "run.json", ["hqq", "torch", "transformers"], **settings, bytes=found)


if __name__ == "__main__":
    main()
