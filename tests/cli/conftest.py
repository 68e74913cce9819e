"""A tiny language model with a real tokenizer, a classifier on the digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from cli.command import rarefy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
"""


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which commands are typed; `cli_nets` lies in it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def llama(here: Path) -> Path:
    """A random Llama of 2 blocks, its tokenizer trained on the spot."""
    from pydoc_data.topics import topics

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([topics["assert"], topics["if"]], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    folder = here / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def packed(llama: Path, here: Path) -> Path:
    """The Llama's artifact, calibrated on the default text."""
    said = rarefy("compress", llama, "packed", "-m", "quantize.gptq:bits=4,group=16", "--blocks", 4, "--length", 32)
    assert said.status == 0, said.err
    return here / "packed"


@pytest.fixture(scope="session")
def mlp(here: Path) -> str:
    """A classifier of the digits, trained a little; calibration.npz and held.npz lie beside it."""
    import torch
    from cli_nets import mlp as build
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    np.savez(here / "calibration.npz", x=x[:600], y=y[:600])
    np.savez(here / "held.npz", x=x[600:], y=y[600:])
    torch.manual_seed(0)
    module = build()
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    images, labels = torch.from_numpy(x[:600]), torch.from_numpy(y[:600])
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    save_file(module.state_dict(), here / "mlp.safetensors")
    return "cli_nets:mlp@mlp.safetensors"


@pytest.fixture(scope="session")
def packed_mlp(mlp: str, here: Path) -> Path:
    """The classifier's artifact."""
    said = rarefy("compress", mlp, "packed-mlp", "-m", "quantize.gptq:bits=4,group=16", "--data", "calibration.npz")
    assert said.status == 0, said.err
    return here / "packed-mlp"
