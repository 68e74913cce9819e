"""NF4 with double quantization by bitsandbytes, in that project's own environment (bitsandbytes==0.50.2):

    PEER_PYTHON bitsandbytes_nf4.py MODEL TOKENS.npy OUT

Blocks of 64 weights, through transformers, as the package is used; it needs no calibration and reads no tokens. What
it leaves alone (embedding, norms) is in float16. OUT gets the decoded weights and run.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import dense
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from meter import Meter
from transformers import BitsAndBytesConfig, PreTrainedModel


def decoded(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """{parameter: what its codes stand for}."""
    coded = {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, Linear4bit)}
    plain = {name: p.detach() for name, p in model.named_parameters() if name not in coded}
    return plain | {name: dequantize_4bit(p.data, p.quant_state) for name, p in coded.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help="not read")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    meter = Meter()
    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    with meter.part("quantize"):
        model = dense.network(
            asked.model,
            dtype=torch.float16,
            device_map="cpu",
            quantization_config=BitsAndBytesConfig(load_in_4bit=True, **settings),
        )
    with meter.part("write"), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        spent = dense.spent_safetensors(Path(folder))
    dense.save(asked.model, asked.out, decoded(model))
    meter.write(asked.out / "run.json", ["bitsandbytes", "torch", "transformers"], **settings, bytes=spent)


if __name__ == "__main__":
    main()
