"""A tiny Llama in a folder, and runs on it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import rarefy

RECIPE = ["prune.magnitude:n=2,m=4", "quantize.gptq:bits=4,group=16"]


def make_llama(folder: Path, layers: int = 2, **more: Any) -> Path:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    LlamaForCausalLM(LlamaConfig(**{**settings, **more}, num_hidden_layers=layers)).save_pretrained(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "about.txt").write_text("a side file\n")
    return folder


def run(model: Any, out: Path, ids: Path | None, recipe: Any = RECIPE, **more: Any) -> Any:
    return rarefy.compress(model, out, recipe, data=[ids] if ids else (), **{"threads": 1, **more})


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
