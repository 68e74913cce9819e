"""GPTQ by gptqmodel, in that project's own environment (gptqmodel==7.6.0 after torch==2.13.0), two workers:

    PEER_PYTHON gptqmodel_gptq.py MODEL TOKENS.npy OUT --bits 4

Linear layers of the decoder blocks, asymmetric groups of 64, the package's own settings otherwise, bfloat16 among them.
OUT gets what the codes in its file stand for, and run.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import dense
import numpy as np
import torch
from gptqmodel import GPTQModel, QuantizeConfig
from meter import Meter
from safetensors.torch import load_file

GROUP = 64


def decoded(folder: Path, bits: int) -> dict[str, torch.Tensor]:
    """{parameter: scale x (code - zero)} of a file in GPTQ's second format, whose zeros are stored as they are."""
    tensors = {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
    made = {name: t for name, t in tensors.items() if "_proj." not in name}
    for name in [name for name in tensors if name.endswith(".qweight")]:
        layer = name.removesuffix(".qweight")
        codes = dense.unpacked(tensors[name], bits)
        zeros = dense.unpacked(tensors[f"{layer}.qzeros"].T.contiguous(), bits).T
        group = tensors[f"{layer}.g_idx"].long()
        scales = tensors[f"{layer}.scales"].float()
        made[f"{layer}.weight"] = (scales[group] * (codes - zeros[group]).float()).T
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    asked = parser.parse_args()
    meter = Meter()
    tokens = np.load(asked.tokens)
    samples = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in tokens]
    config = QuantizeConfig(bits=asked.bits, group_size=GROUP, sym=False, format="gptq_v2", device="cpu")
    with meter.part("quantize"):
        model = GPTQModel.load(str(asked.model), config)
        model.quantize(samples, batch_size=asked.batch)
    with tempfile.TemporaryDirectory() as folder:
        with meter.part("write"):
            model.save(folder)
        spent = dense.spent_safetensors(Path(folder))
        dense.save(asked.model, asked.out, decoded(Path(folder), asked.bits))
    packages = ["gptqmodel", "torch", "transformers"]
    settings = {"bits": asked.bits, "group": GROUP, "sym": False, "tokens": list(tokens.shape)}
    meter.write(asked.out / "run.json", packages, **settings, bytes=spent)


if __name__ == "__main__":
    main()
