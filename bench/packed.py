"""What a token costs in torch, dense and packed: the products by themselves, and the whole network.

    python bench/packed.py ARTIFACT DENSE [--repeats R] [--out bench/results/packed.json]

ARTIFACT, DENSE: a causal language model and the original's directory. Products: every linear layer of the network
once, in order, on one row of noise, so that its weights come from where they would; by float32, by torch's kernels at 8
and at 4 bits (groups of 64) on noise of the same shapes, and the packed layers of the artifact. Network: a forward of
one token after 128, with its cache; dense, packed, and packed with every block as transformers has it. All in turn in
one process; milliseconds, medians with 95 % intervals, ratios paired.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

import rarefy
from machine import machine, versions
from rarefy.engines.packed_blocks import Block
from rarefy.engines.packed_layers import PackedLinear
from rarefy.measure.speed import median

HERE = Path(__file__).resolve().parent
PROMPT, TOKENS, GROUP = 128, 16, 64

Token = Callable[[], None]
"""Does the work of one token."""


def layer_by_layer(packed: nn.Module) -> nn.Module:
    """The same network, none of its blocks in few calls."""
    other = copy.deepcopy(packed)
    for module in other.modules():
        if isinstance(module, Block):
            module.__class__ = type(module).__bases__[1]
    return other


def products(packed: list[PackedLinear]) -> dict[str, Token]:
    """By kernel, one row through matrices (out, in) of the shapes of these."""
    shapes = [(layer.out_features, layer.in_features) for layer in packed]
    dense = [torch.randn(shape) for shape in shapes]
    eight = [
        (torch.randint(-127, 128, shape, dtype=torch.int8), torch.ones(shape[0], dtype=torch.bfloat16))
        for shape in shapes
    ]
    four = [
        (
            torch._convert_weight_to_int4pack_for_cpu(torch.randint(0, 16, (rows, columns), dtype=torch.int32), 1),
            torch.ones(columns // GROUP, rows, 2, dtype=torch.bfloat16),
        )
        for rows, columns in shapes
    ]
    x = {columns: torch.randn(1, columns) for _, columns in shapes}
    short = {columns: row.bfloat16() for columns, row in x.items()}

    def by_dense() -> None:
        for w in dense:
            functional.linear(x[w.shape[1]], w)

    def by_eight() -> None:
        for w, scale in eight:
            torch._weight_int8pack_mm(short[w.shape[1]], w, scale)

    def by_four() -> None:
        for (w, scales), (_, columns) in zip(four, shapes, strict=True):
            torch._weight_int4pack_mm_for_cpu(short[columns], w, GROUP, scales)

    def by_ours() -> None:
        for layer in packed:
            layer.product(x[layer.in_features])

    return {"dense float32": by_dense, "torch's int8": by_eight, "torch's int4": by_four, "packed": by_ours}


def network(module: Any) -> Token:
    """A forward of one more token each time; the cache starts anew where it has grown by TOKENS."""
    ids = torch.arange(PROMPT)[None]
    done, cache = 0, None

    def token() -> None:
        nonlocal done, cache
        if done % TOKENS == 0:
            cache = module(ids, use_cache=True, logits_to_keep=1).past_key_values
        module(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        done += 1

    return token


def raced(tokens: dict[str, Token], repeats: int) -> dict[str, Any]:
    """Milliseconds a token of each, the first the yardstick: in turn, TOKENS at a time, after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in tokens}
    for lap in range(repeats + 1):
        for name, token in tokens.items():
            token()  # the one that starts its cache anew is not counted
            began = time.perf_counter()
            for _ in range(TOKENS - 1):
                token()
            if lap:
                found[name].append(1e3 * (time.perf_counter() - began) / (TOKENS - 1))
    first = np.array(next(iter(found.values())))
    return {
        name: {"milliseconds": median(each).as_json(), "times as fast": median(first / np.array(each)).as_json()}
        for name, each in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("dense")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "packed.json")
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    dense = AutoModelForCausalLM.from_pretrained(asked.dense, dtype=torch.float32).eval()
    packed: Any = rarefy.open(asked.artifact).packed()
    layers = [layer for layer in packed.modules() if isinstance(layer, PackedLinear)]
    with torch.no_grad():
        alone = raced(products(layers), asked.repeats)
        networks = {"dense float32": dense, "packed": packed, "packed, layer by layer": layer_by_layer(packed)}
        whole = raced({name: network(module) for name, module in networks.items()}, asked.repeats)
    about = {"machine": machine(), "versions": versions("transformers"), "layers": len(layers)}
    about |= {
        "weights": sum(layer.out_features * layer.in_features for layer in layers),
        "packed bytes": packed.packing.bytes,
    }
    asked.out.write_text(json.dumps({**about, "products": alone, "network": whole}, indent=1) + "\n")
    for part in (alone, whole):
        for name, row in part.items():
            print(f"{name}: {row['milliseconds']['value']:.1f} ms, {row['times as fast']['value']:.2f}x")


if __name__ == "__main__":
    main()
