"""Packed networks of every family that transformers has, their blocks in few calls beside as they are.

    python bench/families.py [FAMILY...] [--out bench/results/families.json]

Causal language models of two layers and noise for weights, on 4-bit grids, read a prompt of 6 tokens and then 14 more
one by one: one sequence, and three at once. For each family, blocks in few calls by kind, and the largest distance of
its logits from those of the same network with all blocks as they are, relative to these. Families that are too large
at this size, or that do not run with a cache, are named with the reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from machine import machine, versions
from packed import layer_by_layer
from rarefy.codes import Grid
from rarefy.codes.dense import Dense
from rarefy.engines.packed_blocks import Block
from rarefy.model import Model, Step

SIZE: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "n_embd", "d_model", "max_position_embeddings"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 96),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Of whatever a configuration has."""

LARGEST = 3e7
PROMPT, TOKENS = 6, 20
IDS = torch.randint(3, SIZE["vocab_size"], (3, TOKENS), generator=torch.Generator().manual_seed(0))


def configured(family: str) -> Any:
    """A tiny configuration."""
    usual = AutoConfig.for_model(family)
    size = {name: value for name, value in SIZE.items() if hasattr(usual, name)}
    return AutoConfig.for_model(family, **size, **({"layer_types": None} if "layer_types" in usual.to_dict() else {}))


def packed(config: Any) -> Any:
    """A network of noise, its matrices on 4-bit grids, packed."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in module.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    model, codes = Model.from_module(module), {}
    for name, parameter in module.named_parameters():
        w = parameter.detach()
        if w.dim() == 2 and w.std() > 0 and name in model.keys:
            q = (w / w.std() * 2 + 8).round().clamp(0, 15).to(torch.uint8).numpy()
            scale = Dense.of((w.std() / 2).expand(len(w), 1).numpy(), "F32")
            codes[model.keys[name]] = Grid(q, scale, None, bits_per_symbol=4, group=w.shape[1], shape=tuple(w.shape))
    return model.with_codes(codes, Step("noise", {})).packed()


def steps(module: Any, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits of the prompt, then of one token after the other."""
    with torch.inference_mode():
        found = module(ids[:, :PROMPT], use_cache=True)
        yield found.logits
        for at in range(PROMPT, ids.shape[1]):
            yield module(ids[:, at : at + 1], past_key_values=found.past_key_values, use_cache=True).logits


def distance(quick: Any, plain: Any) -> float:
    """The largest of any step, relative."""
    pairs = (pair for ids in (IDS[:1], IDS) for pair in zip(steps(quick, ids), steps(plain, ids), strict=True))
    return max(float((found - expected).norm() / expected.norm()) for found, expected in pairs)


def tried(family: str) -> dict[str, Any]:
    """Raises whatever building or running the network raises."""
    config = configured(family)
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > LARGEST:
        return {"left": f"{weights / 1e6:.0f} M weights"}
    module = packed(config)
    kinds = Counter(type(child).__bases__[0].__name__ for child in module.modules() if isinstance(child, Block))
    return {"kinds": dict(kinds), "distance": distance(module, layer_by_layer(module))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "families.json")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("rarefy").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    found: dict[str, Any] = {}
    for family in asked.families:
        try:
            found[family] = tried(family)
        except Exception as error:
            found[family] = {"left": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"}
        print(family, found[family], flush=True)
    about = {"command": "python bench/families.py", "machine": machine(), "versions": versions("transformers")}
    asked.out.write_text(json.dumps({**about, "families": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
