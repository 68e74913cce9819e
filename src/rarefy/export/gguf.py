"""GGUF: one file that llama.cpp and its kin run, tokenizer and chat template inside.

Names, keys and the order of rotary dimensions are llama.cpp's; the `gguf` package writes the file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense
from rarefy.export import gguf_blocks, gguf_tokenizer
from rarefy.export.gguf_metadata import (
    TURNED,
    add_settings,
    architecture_of,
    config_of,
    heads_of,
    names_of,
    package,
    rope_factors,
    turned,
)
from rarefy.export.proof import Engine, Program, transformers_engine
from rarefy.export.target import Conversion, Held, Target, converted, dense_in
from rarefy.files.atomic import writing
from rarefy.method import setting

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from rarefy.codes import Code
    from rarefy.model import Model
    from rarefy.progress import Progress

FILE: Final = "model.gguf"

AUTO: Final = "auto"
PLAIN: Final = ("F32", "F16", "BF16")
TYPES: Final = (AUTO, *(name.lower() for name in (*gguf_blocks.BLOCKS, *PLAIN)))

DENSE: Final = 0.001
"""Nats that llama.cpp's arithmetic may cost: it keeps keys and values in 16 bits."""

ROUNDED: Final = 0.02
"""The same where weights are in blocks: it multiplies those with activations rounded to 8 bits."""


@dataclass(frozen=True)
class GGUF(Target):
    """One file for llama.cpp."""

    type: str = setting(
        AUTO,
        "of matrices; auto: the smallest that holds a grid exactly, q8_0 for other codes, dense as it is",
        choices=TYPES,
    )
    embedding: str = setting(AUTO, "of the embedding and the output head", choices=TYPES)
    tokenizer: bool = setting(True, "put the tokenizer into the file")

    def convert(self, model: Model, progress: Progress) -> Conversion:
        package()
        architecture, names = architecture_of(model), names_of(model)
        ends = {names[key] for key in names} & {"token_embd.weight", "output.weight"}

        def hold(key: str, code: Code) -> Held:
            if key not in names:
                return Held(code, "left out", "the network does not use it")
            return _held(code, self.embedding if names[key] in ends else self.type)

        return converted(model, hold, progress, architecture=architecture, names=names)

    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        gguf, model = package(), conversion.model
        architecture = conversion.settings["architecture"]
        writer = gguf.GGUFWriter(folder / FILE, architecture)
        add_settings(writer, model, conversion)
        folder_of_words = _tokenizer_folder(model) if self.tokenizer else None
        if folder_of_words is not None:
            gguf_tokenizer.add(writer, folder_of_words, config_of(model)["vocab_size"])
        else:
            writer.add_tokenizer_model("no_vocab")
        factors = rope_factors(model)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        for key, name in conversion.settings["names"].items():
            code = conversion.held[key].code
            assert isinstance(code, Stored)
            rows = turned(code.rows, heads_of(model, name)) if architecture in TURNED else code.rows
            if code.kind in ("F32", "F16"):
                writer.add_tensor(name, rows)
            else:
                writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[code.kind])
        with progress.task("writing", 0), writing(folder / FILE):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    def engines(self, conversion: Conversion) -> list[Engine]:
        reader = transformers_engine(conversion.model)
        reader = dataclasses.replace(
            reader, name=f"{reader.name}'s reader", open=lambda folder: _read(conversion.model, folder)
        )
        limit = ROUNDED if any(each.form in gguf_blocks.BLOCKS for each in conversion.held.values()) else DENSE
        program = Program("llama.cpp", "llama-cpp-python", "llama_cpp", "llama_cpp.py", limit, FILE)
        return [reader, program]


TARGET = GGUF


class Stored(Dense):
    """A tensor as GGUF has it. rows: its values, or the bytes of its rows' blocks; kind: their type's name."""

    def __init__(self, rows: NDArray[Any], kind: str, shape: tuple[int, ...]) -> None:
        self.rows, self.kind = rows, kind
        super().__init__(self._values, shape, Dense.of(np.zeros(0, np.float32)).dtype)

    def _values(self) -> NDArray[np.float32]:
        gguf = package()
        values = gguf.quants.dequantize(self.rows, gguf.GGMLQuantizationType[self.kind])
        return np.asarray(values, np.float32).reshape(self.shape)


def _held(code: Code, kind: str) -> Held:
    """A tensor in the type that was asked for, or in the nearest that it can have."""
    if len(code.shape) != 2:
        return _dense(code, "F32")
    own = code.dtype.name if isinstance(code, Dense) and code.dtype.name in PLAIN else ""
    if kind == AUTO:
        found = gguf_blocks.exact(code)
        if found is not None:
            return Held(Stored(found[1], found[0], code.shape), found[0])
        kind = own or "Q8_0"
    kind = kind.upper()
    if kind in PLAIN:
        return _dense(code, kind)
    if code.shape[1] % gguf_blocks.SIZE:
        why = f"its {code.shape[1]} columns are no multiple of {gguf_blocks.SIZE}"
        return dataclasses.replace(_dense(code, own or "F16"), why=why)
    return Held(Stored(gguf_blocks.blocks_of(code, kind), kind, code.shape), kind)


def _dense(code: Code, kind: str) -> Held:
    raw = dense_in(code, kind).raw()
    rows = raw.view(np.uint8) if kind == "BF16" else raw
    return Held(Stored(rows, kind, code.shape), kind)


UNREAD: Final = ("head_dim", "attention_bias", "mlp_bias")
"""What llama.cpp finds out from keys and tensors, and transformers 5.23 does not read from a GGUF."""


def _read(model: Model, folder: Path) -> nn.Module:
    """The network as transformers reads it from the file."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=FILE)
    own = config_of(model)
    for name in UNREAD:
        if name in own:
            setattr(config, name, own[name])
    # Mistral is one of the llamas there.
    opened: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, config=config, dtype="float32"
    )
    return opened


def _tokenizer_folder(model: Model) -> Path | None:
    """Where the tokenizer lies, None where there is none."""
    folder = model.skeleton.folder
    names = ("tokenizer.json", "tokenizer_config.json")
    return folder if folder is not None and any((folder / name).is_file() for name in names) else None
