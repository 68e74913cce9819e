"""What keys and values take beside the weights, by the shapes of networks and the engines' number formats.

    python bench/kv_cache.py        prints the table of docs/guides/serving.md

Networks are those whose shapes transformers' configurations have by default, and SmolLM2-135M.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import transformers

from rarefy.units import human

NETWORKS = {
    "SmolLM2-135M": transformers.LlamaConfig(
        num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3
    ),
    "Llama-2-7B": transformers.LlamaConfig(),
    "Mistral-7B": transformers.MistralConfig(),
    "Gemma-3, 26 layers": transformers.Gemma3TextConfig(),
}

CONTEXTS = (4096, 32768)

FORMATS = {"bfloat16": 16.0, "q8_0": 8.5, "q4_0": 4.5}
"""Bits a value. llama.cpp's blocks of 32 have a scale of 16 bits."""


def windows(config: Any) -> Iterator[int | None]:
    """For each layer the positions that it looks back, itself among them; None: all."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    for i in range(config.num_hidden_layers):
        yield window if window and (kinds is None or kinds[i] == "sliding_attention") else None


def values(config: Any) -> int:
    """Numbers that a position leaves in a layer: keys and values of each head that has its own."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_key_value_heads * width


def cache_bytes(config: Any, context: int, bits: float) -> float:
    """Of one text of `context` tokens: a layer keeps no more positions than it looks back."""
    kept = sum(context if window is None else min(context, window) for window in windows(config))
    return values(config) * kept * bits / 8


def table() -> str:
    """Markdown: a row for a network and a context."""
    heads = ["", "bytes a token and layer, bfloat16", "layers with a window", "context", *FORMATS]
    rows = []
    for name, config in NETWORKS.items():
        known = list(windows(config))
        local = sorted({window for window in known if window})
        sliding = f"{sum(map(bool, known))} of {len(known)}, {local[0]} tokens" if local else "none"
        for i, context in enumerate(CONTEXTS):
            first = [name, f"{2 * values(config):,}", sliding] if i == 0 else ["", "", ""]
            rows.append([*first, f"{context:,}", *(human(cache_bytes(config, context, b)) for b in FORMATS.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


if __name__ == "__main__":
    print(table())
