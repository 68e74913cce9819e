"""Networks in torch: what transformers opens from a directory, and modules of one's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from rarefy.errors import UsageError
from rarefy.opening import open_model


class Torch:
    """A module. asked: device, threads, batch, data."""

    def __init__(self, module: Any, asked: dict[str, Any], mode: str) -> None:
        self.module, self.device = module.eval(), torch.device(asked["device"])
        self.written: list[int] = []
        config = getattr(module, "config", None)
        reads_tokens = getattr(module, "main_input_name", "") == "input_ids"
        writes = reads_tokens and module.can_generate()
        self.facts = {
            "unit": "tokens" if writes else "sentences" if reads_tokens else "examples",
            "mode": mode,
            "vocabulary": getattr(config, "vocab_size", None),
            "positions": getattr(config, "max_position_embeddings", None),
            "touched": touched(module) if writes else None,
            "kept": kept(config, module.dtype) if writes else None,
        }
        if not reads_tokens:
            x = torch.from_numpy(examples(module, asked)).to(self.device)
            self.x = x.to(dtype_of(module)) if x.is_floating_point() else x
        if writes:
            # Nothing ends a text early, and nothing is drawn.
            module.generation_config = transformers.GenerationConfig(pad_token_id=0, do_sample=False)

    def run(self, ids: list[list[int]] | None, new: int) -> list[float]:
        """As `worker.Network` has it; tokens through `generate`, as anybody would."""
        self.written = []
        known: list[float] = []

        def note(*_: Any, **__: Any) -> torch.Tensor:
            known.append(self._now())
            return torch.zeros(len(ids or ()), dtype=torch.bool, device=self.device)

        with torch.inference_mode():
            if ids is None:
                self.module(self.x)
                return [self._now()]
            tokens = torch.tensor(ids, device=self.device)
            mask = torch.ones_like(tokens)
            if self.facts["unit"] == "sentences":
                self.module(input_ids=tokens, attention_mask=mask)
                return [self._now()]
            stops = transformers.StoppingCriteriaList([note])
            made = self.module.generate(tokens, attention_mask=mask, max_new_tokens=new, stopping_criteria=stops)
            self.written = made[0, tokens.shape[1] :].tolist()
        return known

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def imports(asked: dict[str, Any]) -> None:
    """transformers brings the code of a network, and that of writing text, when they are first asked for."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(asked["threads"])
    torch.ones(64, 64) @ torch.ones(64, 64)  # the threads, and the libraries' own room
    if os.path.isdir(asked["source"]):
        kind(asked["source"])


def load(asked: dict[str, Any]) -> Torch:
    """The network of a directory by `from_pretrained`, of anything else by `rarefy.open`."""
    source, dtype, device = asked["source"], getattr(torch, asked["dtype"]), asked["device"]
    if os.path.isdir(source):
        module = kind(source).from_pretrained(source, dtype=dtype).to(device)
    else:
        module = open_model(source).module(device, dtype)
    return Torch(module, asked, asked["dtype"])


def kind(folder: str) -> Any:
    """The class of a directory's network. Raises UsageError when transformers has none."""
    names = transformers.AutoConfig.from_pretrained(folder).architectures or ["none"]
    found = getattr(transformers, names[0], None)
    if found is None:
        raise UsageError(f"{folder} is not a network that transformers has", f"its config says {names[0]}")
    return found


def dtype_of(module: nn.Module) -> torch.dtype:
    """In which it computes."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def touched(module: Any) -> int | None:
    """Bytes of weights that one more token reads: all, but for tables of which it reads a row.

    None for networks whose tokens choose what they read, and for those that read and write with different parts.
    """
    config = module.config
    if config.is_encoder_decoder or any("expert" in path for path, _ in module.named_modules()):
        return None
    tables = {id(layer) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    tables.add(id(module.get_input_embeddings()))

    def tensors(layer: nn.Module) -> Iterator[torch.Tensor]:
        if id(layer) not in tables:  # what a table shares with the head is found there
            yield from layer.parameters(recurse=False)
            yield from layer.buffers(recurse=False)
            for inner in layer.children():
                yield from tensors(inner)

    return sum({tensor.data_ptr(): int(tensor.nbytes) for tensor in tensors(module)}.values())


def kept(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token leaves in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * dtype.itemsize)


def examples(module: Any, asked: dict[str, Any]) -> np.ndarray[Any, Any]:
    """(batch, ...) of the user's data, over and over where they are fewer; noise of the size that a config names."""
    if asked["data"]:
        with np.load(asked["data"]) as data:
            x = data["x"]
        x = np.resize(x, (asked["batch"], *x.shape[1:]))
        return x.astype(np.int64 if x.dtype.kind == "i" else np.float32)  # signed integers are token ids
    config: Any = getattr(module, "config", None)
    size = getattr(config, "image_size", None)
    if getattr(module, "main_input_name", "") != "pixel_values" or size is None:
        raise UsageError(f"what {asked['source']} reads is not known", remedy="give an .npz with x to --data")
    sides = (size, size) if isinstance(size, int) else tuple(size)
    shape = (asked["batch"], config.num_channels, *sides)
    return np.random.default_rng(0).standard_normal(shape, np.float32)
