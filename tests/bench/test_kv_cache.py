"""The sizes of caches that the guide shows, held to the caches that transformers builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import kv_cache

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("Llama", SHAPE | {"num_hidden_layers": 3}),
        ("Mistral", SHAPE | {"num_hidden_layers": 2, "sliding_window": 8}),
        ("Gemma3", SHAPE | {"num_hidden_layers": 7, "sliding_window": 8, "head_dim": 16}),
    ],
)
def test_sizes_are_those_of_a_cache_that_was_filled(kind: str, config: dict) -> None:
    names = {"Gemma3": "Gemma3TextConfig"}
    config = getattr(transformers, names.get(kind, f"{kind}Config"))(**config)
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.inference_mode():
        cache = network(torch.ones(1, 20, dtype=torch.int64), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    sliding = sum(window is not None for window in kv_cache.windows(config))
    # Of a window transformers keeps one position less: the token that looks back brings its own.
    assert held == kv_cache.cache_bytes(config, 20, 32) - sliding * kv_cache.values(config) * 4


def test_the_guide_shows_the_table() -> None:
    guide = Path(kv_cache.__file__).parents[1] / "docs/guides/serving.md"
    assert kv_cache.table() in guide.read_text()
