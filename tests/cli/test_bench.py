"""`rarefy bench`: real processes with tiny networks, and what is refused, each in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command import rarefy

from rarefy.errors import UsageError

FEW = ("--prompt", 8, "--generate", 4, "--repeat", 6, "--threads", 1)


def test_language_models_beside_each_other(llama: Path, packed: Path) -> None:
    second = f"{packed}@transformers:bfloat16"
    said = rarefy("bench", llama, second, *FEW, "--batch", 2, "--json")
    assert said.status == 0, said.err
    found = said.json()
    assert (found["prompt"], found["generate"], found["batch"], found["repeat"]) == (8, 4, 2, 6)
    assert found["bandwidth"]["value"] > 1e6
    dense, coded = found["networks"]
    assert (dense["name"], dense["mode"], dense["unit"]) == (str(llama), "float32", "tokens")
    assert (coded["name"], coded["mode"], coded["engine"]) == (second, "bfloat16", "transformers")
    for each in (dense, coded):
        for name in ("prompt", "first_token", "generation"):
            assert 0 < each[name]["low"] <= each[name]["value"] <= each[name]["high"]
        assert each["resident_bytes"] <= each["peak_bytes"]
        assert each["bandwidth_share"]["value"] > 0
    assert dense["ratios"]["generation"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    # All weights lie in the tied embedding and two blocks; bfloat16 halves what a token touches.
    touched = [each["bandwidth_share"]["value"] / each["generation"]["value"] for each in (dense, coded)]
    assert touched[0] == pytest.approx(2 * touched[1], rel=0.5)


@pytest.mark.usefixtures("here")
def test_networks_that_read_arrays(mlp: str) -> None:
    said = rarefy("bench", mlp, "--data", "held.npz", "--batch", 3, "--repeat", 6, "--threads", 1)
    assert said.status == 0, said.err
    assert "examples a second" in said.out
    assert "first token" not in said.out
    assert "examples, 3 at once, 6 times in turn on 1 thread; reading memory:" in said.err.replace("\n", " ")


def test_the_size_of_inputs() -> None:
    from torch import nn
    from transformers import ViTConfig, ViTModel

    from rarefy.engines.runners.transformers import examples

    asked = {"source": "net", "batch": 3, "data": None}
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)
    assert examples(ViTModel(config), asked).shape == (3, 3, 16, 16)
    with pytest.raises(UsageError, match="what net reads is not known; give an .npz with x to --data"):
        examples(nn.Linear(2, 2), asked)


def test_of_an_encoder(here: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(here / "bert")
    said = rarefy("bench", "bert", "--prompt", 8, "--repeat", 6, "--threads", 1, "--json")
    assert said.status == 0, said.err
    (found,) = said.json()["networks"]
    assert found["unit"] == "sentences"
    assert found["speed"]["value"] > 0
    assert found["bandwidth_share"] is None


def test_what_a_token_touches() -> None:
    """The tables of which a row is read do not count, unless they are the head too."""
    from tiny import build

    from rarefy.engines.runners.transformers import kept, touched

    for name, tables in (("llama", 64 * 32), ("llama_tied", 0)):
        network = build(name)
        # Rotary frequencies are a buffer, here of float32.
        every = {id(t): t.nbytes for t in (*network.parameters(), *network.buffers())}
        assert touched(network) == sum(every.values()) - 4 * tables
        key = network.model.layers[0].self_attn.k_proj.out_features
        assert kept(network.config, network.dtype) == 2 * 2 * key * 4


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("nowhere",), 2, "nowhere does not exist"),
        (("llama@onnx",), 2, "onnx cannot run llama: it has no .onnx"),
        (("llama", "llama"), 2, "a network is named twice"),
        (("llama", "--repeat", 5), 2, "--repeat"),
        (("llama", "--data", "nothing.npz"), 2, "nothing.npz does not exist"),
        (("llama", "--device", "abacus"), 2, "--device abacus is not known"),
        ((), 2, "MODEL"),
    ],
)
@pytest.mark.usefixtures("llama")
def test_refusals_are_one_line(words: tuple[object, ...], status: int, told: str) -> None:
    said = rarefy("bench", *words)
    assert said.status == status
    assert told in said.error()
