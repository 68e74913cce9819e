"""SparseGPT by llm-compressor, in that project's own environment (llmcompressor==0.14.0.1):

    PEER_PYTHON llmcompressor_sparsegpt.py --pattern 2:4 [--dtype bfloat16] [--batch 4] MODEL TOKENS.npy OUT

Linear layers of the decoder blocks at half sparsity, anywhere or two of every four inputs; damping 0.01, blocks of 128
columns, layer after layer on the outputs of the already pruned ones. OUT gets the pruned weights, dense in float32, and
run.json.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from dense import network, save
from llmcompressor.modifiers.pruning import SparseGPTModifier
from llmcompressor_gptq import calibrated
from meter import Meter
from torch import nn
from transformers import PreTrainedModel


def sparsegpt(model: PreTrainedModel, tokens: np.ndarray, pattern: str, batch: int) -> None:
    """Prune in place; `tokens` is int [samples, length]. pattern: zeros of so many inputs, 0:0 unstructured."""
    modifier = SparseGPTModifier(
        sparsity=0.5,
        mask_structure=pattern,
        block_size=128,
        dampening_frac=0.01,
        targets=["Linear"],
        ignore=["re:.*lm_head"],
    )
    calibrated(model, modifier, tokens, batch)


def dense(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """({parameter: float32}, facts): the share of zeros says whether the peer pruned what it was asked to."""
    state = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "_proj" in name)
    shares = [(state[f"{name}.weight"] == 0).float().mean().item() for name in linear]
    return state, {
        "pruned_layers": sum(share > 0 for share in shares),
        "least_sparsity": round(min(shares), 6),
        "most_sparsity": round(max(shares), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pattern", default="0:0", choices=["0:0", "2:4"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=1, help="samples at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    meter = Meter()
    torch.set_num_threads(asked.threads)
    with meter.part("load"):
        model = network(asked.model, dtype=getattr(torch, asked.dtype))
    tokens = np.load(asked.tokens)
    with meter.part("prune"):
        sparsegpt(model, tokens, asked.pattern, asked.batch)
    with meter.part("write"):
        weights, facts = dense(model)
        save(asked.model, asked.out, weights)
    settings = {k: getattr(asked, k) for k in ("pattern", "dtype", "batch", "threads")}
    packages = ["llmcompressor", "compressed-tensors", "torch", "transformers"]
    meter.write(asked.out / "run.json", packages, **settings, tokens=list(tokens.shape), **facts)


if __name__ == "__main__":
    main()
