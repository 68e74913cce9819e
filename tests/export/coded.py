"""Networks and codes that exports are tried on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tiny
import torch
import transformers

from rarefy.codes import Dense, Grid

Coder = Callable[[np.ndarray], Grid]


def wide(kind: str = "Llama", **more) -> transformers.PreTrainedModel:
    """A decoder whose rows have whole blocks of 32."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tiny.VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{"num_hidden_layers": 2, "tie_word_embeddings": False, **more},
    )
    network = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:  # gains that are all one, and biases that are none, would hide what is left out
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.1)
    return network.eval()


def grid(bits: int, group: int, symmetric: bool, scale: str = "BF16") -> Coder:
    """A coder to a random grid of that form: what is tested is that it arrives, not that it fits."""
    random = np.random.default_rng(bits * group + symmetric)

    def coder(w: np.ndarray) -> Grid:
        groups = -(-w.shape[1] // group) if group else 1
        scales = random.uniform(0.01, 0.05, (len(w), groups)).astype(np.float32)
        return Grid(
            random.integers(0, 1 << bits, w.shape, np.uint8),
            Dense.of(scales, scale),
            None if symmetric else random.integers(0, 1 << bits, scales.shape, np.uint8),
            bits_per_symbol=bits,
            group=group or w.shape[1],
            shape=w.shape,
        )

    return coder
