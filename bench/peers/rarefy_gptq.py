"""GPTQ by Rarefy, called and measured as the peers are:

    python rarefy_gptq.py MODEL TOKENS.npy OUT [--dtype bfloat16] [--act-order]

OUT gets what the codes stand for, dense in float32, and run.json: what it cost, and the estimated bytes of the codes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from meter import Meter
from numpy.typing import NDArray
from safetensors.torch import save_file

from rarefy.evidence import Evidence
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.model import Model
from rarefy.opening import open_model


def gptq(model: Model, tokens: NDArray[np.int64], dtype: str, act_order: bool) -> Model:
    """The model with the linear layers of its blocks coded; the tied embedding stays as it is."""
    method = GPTQ(bits=4, group=64, symmetric=False, damping=0.01, act_order=act_order)
    return method.apply(model, Evidence(tokens, dtype=dtype), seed=0)


def dense(model: Model) -> dict[str, torch.Tensor]:
    """{file key: float32}."""
    return {key: torch.from_numpy(np.ascontiguousarray(code.decode())) for key, code in model.codes.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--act-order", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    meter = Meter()
    torch.set_num_threads(asked.threads)
    with meter.part("load"):
        model = open_model(asked.model)
    tokens = np.load(asked.tokens)
    with meter.part("gptq"):
        coded = gptq(model, tokens, asked.dtype, asked.act_order)
    with meter.part("write"):
        asked.out.mkdir(parents=True, exist_ok=True)
        save_file(dense(coded), asked.out / "model.safetensors", metadata={"format": "pt"})
    for file in asked.model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, asked.out)
    settings = {
        "dtype": asked.dtype,
        "act_order": asked.act_order,
        "threads": asked.threads,
    }
    facts = {
        "quantized_layers": len(coded.history[-1].damage),
        "estimated_bytes": round(coded.bits() / 8),
    }
    meter.write(
        asked.out / "run.json",
        ["torch", "transformers"],
        **settings,
        tokens=list(tokens.shape),
        **facts,
    )


if __name__ == "__main__":
    main()
