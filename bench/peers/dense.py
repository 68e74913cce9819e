"""What every peer leaves behind: its weights dense in float32, and where the bytes of its own file went.

For the peers' environments: torch, transformers and safetensors, nothing of Rarefy.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file


def network(model: Path, **settings: object) -> transformers.PreTrainedModel:
    """A network by `from_pretrained`: a causal language model where its configuration says so, else the bare one."""
    config = json.loads((model / "config.json").read_text())
    causal = any(name.endswith("ForCausalLM") for name in config["architectures"])
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return kind.from_pretrained(model, **settings)


def save(model: Path, out: Path, weights: dict[str, torch.Tensor]) -> None:
    """OUT/model.safetensors in float32 under Hugging Face's names, and the side files of `model`.

    Raises ValueError where a name or a shape is not the network's: a peer that is read wrongly must not be measured.
    """
    there = header(model / "model.safetensors").items()
    expected = {name: entry["shape"] for name, entry in there if "F" in entry["dtype"]}  # no tables of positions
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected | found if found.get(name) != expected.get(name))
        raise ValueError(f"{len(wrong)} tensors are not the network's, the first {wrong[0]}")
    save_file({n: t.float().contiguous() for n, t in weights.items()}, out / "model.safetensors", {"format": "pt"})
    for file in model.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, out)


def header(path: Path) -> dict[str, dict]:
    """{tensor: {"dtype", "shape", "data_offsets"}} of a safetensors file."""
    with path.open("rb") as f:
        entries = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def in_linear(name: str) -> bool:
    """Whether a tensor belongs to a linear layer of the blocks, by Llama's names or by BERT's."""
    return "_proj" in name or ("encoder.layer." in name and "LayerNorm" not in name)


def spent(file: int, tensors: Iterable[tuple[str, int]]) -> dict[str, int]:
    """{"file", "linear", "embedding"}: bytes of the file, and of them those of the two kinds of matrices.

    tensors: (name, bytes); everything stored under a linear layer's name (codes, scales, zeros) is that layer's.
    """
    linear = embedding = 0
    for name, size in tensors:
        linear += size * in_linear(name)
        embedding += size * ("embed" in name or "lm_head" in name)
    return {"file": file, "linear": linear, "embedding": embedding}


def spent_safetensors(folder: Path) -> dict[str, int]:
    """`spent` over all safetensors files of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    entries = [item for file in files for item in header(file).items()]
    sizes = ((name, entry["data_offsets"][1] - entry["data_offsets"][0]) for name, entry in entries)
    return spent(sum(file.stat().st_size for file in files), sizes)


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 words (n, m) of GPTQ's files to codes (n * 32 / bits, m), int64: down a column, the lowest bits first.

    Codes of three bits cross words: 32 of them fill three.
    """
    stream = (words.long()[:, None, :] >> torch.arange(32)[None, :, None]) & 1
    codes = stream.reshape(-1, bits, words.shape[1])
    return (codes << torch.arange(bits)[None, :, None]).sum(1)
