"""GPTQ by llm-compressor, in that project's own environment (llmcompressor==0.14.0.1):

    PEER_PYTHON llmcompressor_gptq.py MODEL TOKENS.npy OUT [--dtype bfloat16] [--actorder static] [--batch 4]

Linear layers of the decoder blocks to 4-bit affine codes in groups of 64, damping 0.01, layer after layer on the
outputs of the already quantized ones. OUT gets what the codes stand for, dense in float32, so that every contestant
is measured by the same code, and run.json: what it cost, and the bytes of the peer's own packed file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from datasets import Dataset
from dense import network, save, spent_safetensors
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from meter import Meter
from torch import nn
from transformers import PreTrainedModel

GROUP = 64


def gptq(model: PreTrainedModel, tokens: np.ndarray, actorder: str | None, batch: int) -> None:
    """Quantize in place; `tokens` is int [samples, length]."""
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=GROUP)
    modifier = GPTQModifier(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        actorder=actorder,
        dampening_frac=0.01,
    )
    calibrated(model, modifier, tokens, batch)


def calibrated(model: PreTrainedModel, modifier: Modifier, tokens: np.ndarray, batch: int) -> None:
    """Let a modifier work on a network in place; `tokens` is int [samples, length]."""
    samples = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": np.ones_like(tokens).tolist()})
    oneshot(
        model=model,
        dataset=samples,
        recipe=modifier,
        max_seq_length=tokens.shape[1],
        num_calibration_samples=len(tokens),
        shuffle_calibration_samples=False,
        batch_size=batch,
    )


def dense(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """({parameter: float32}, facts): codes decoded in float32, the rest as the peer left it.

    The peer keeps decoded weights; rounding them again to codes and decoding those in float32 undoes the rounding of
    a bfloat16 model, as a kernel that reads codes and scales would. `worst_off_grid` is the largest distance to that
    grid in steps: far below 1/2 if the codes are indeed the peer's.
    """
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    count, worst = 0, 0.0
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or not isinstance(module, nn.Linear):
            continue
        scale, zero = module.weight_scale.float(), module.weight_zero_point
        weight = module.weight.detach().float()
        codes = quantize(weight, scale, zero, scheme.weights)
        decoded = dequantize(codes, scale, zero, scheme.weights)
        steps = (decoded - weight).unflatten(1, (-1, GROUP)) / scale[..., None]
        worst = max(worst, steps.abs().max().item())
        state[f"{name}.weight"] = decoded
        count += 1
    extra = ("weight_scale", "weight_zero_point", "weight_g_idx")
    kept = {n: t.contiguous() for n, t in state.items() if not n.endswith(extra)}
    if getattr(model.config, "tie_word_embeddings", False):
        kept.pop("lm_head.weight", None)
    return kept, {"quantized_layers": count, "worst_off_grid": round(worst, 4)}


def packed(model: PreTrainedModel) -> dict[str, int]:
    """Where the bytes of the weight files went that the peer would publish."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_compressed=True)
        return spent_safetensors(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path, help=".npy of int token ids [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--actorder", default="none", choices=["none", "static"])
    parser.add_argument("--batch", type=int, default=1, help="samples at a time")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    meter = Meter()
    torch.set_num_threads(asked.threads)
    with meter.part("load"):
        model = network(asked.model, dtype=getattr(torch, asked.dtype))
    tokens = np.load(asked.tokens)
    with meter.part("gptq"):
        gptq(
            model,
            tokens,
            None if asked.actorder == "none" else asked.actorder,
            asked.batch,
        )
    with meter.part("write"):
        weights, facts = dense(model)
        save(asked.model, asked.out, weights)
    settings = {k: getattr(asked, k) for k in ("dtype", "actorder", "batch", "threads")}
    packages = ["llmcompressor", "compressed-tensors", "torch", "transformers"]
    size = {"tokens": list(tokens.shape), "bytes": packed(model)}
    meter.write(asked.out / "run.json", packages, **settings, **size, **facts)


if __name__ == "__main__":
    main()
