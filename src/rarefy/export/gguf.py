"""GGUF: one file that llama.cpp and its kin run, tokenizer and chat template inside.

Names, keys and the order of rotary dimensions are llama.cpp's; the `gguf` package writes the file.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense
from rarefy.errors import RarefyError, UsageError
from rarefy.export import gguf_blocks, gguf_tokenizer
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
PLAIN: Final = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
TYPES: Final = (AUTO, *(name.lower() for name in (*gguf_blocks.BLOCKS, *PLAIN)))

ARCHITECTURES: Final = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model types -> llama.cpp's architectures."""

TURNED: Final = {"llama"}
"""Architectures in which the two dimensions that are rotated together lie side by side."""

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
        _package()
        architecture, names = architecture_of(model), names_of(model)
        ends = {names[key] for key in names} & {"token_embd.weight", "output.weight"}

        def hold(key: str, code: Code) -> Held:
            if key not in names:
                return Held(code, "left out", "the network does not use it")
            return _held(code, self.embedding if names[key] in ends else self.type)

        return converted(model, hold, progress, architecture=architecture, names=names)

    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        gguf, model = _package(), conversion.model
        architecture = conversion.settings["architecture"]
        writer = gguf.GGUFWriter(folder / FILE, architecture)
        _add_settings(writer, model, conversion)
        folder_of_words = _tokenizer_folder(model) if self.tokenizer else None
        if folder_of_words is not None:
            gguf_tokenizer.add(writer, folder_of_words, _config(model)["vocab_size"])
        else:
            writer.add_tokenizer_model("no_vocab")
        factors = rope_factors(model)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        for key, name in conversion.settings["names"].items():
            code = conversion.held[key].code
            assert isinstance(code, Stored)
            rows = turned(code.rows, _heads(model, name)) if architecture in TURNED else code.rows
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
        gguf = _package()
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
    own = _config(model)
    for name in UNREAD:
        if name in own:
            setattr(config, name, own[name])
    # Mistral is one of the llamas there.
    opened: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, config=config, dtype="float32"
    )
    return opened


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise RarefyError(
            "GGUF cannot be written", "the package gguf is not installed", "pip install rarefy[gguf]"
        ) from None
    return gguf


def _config(model: Model) -> dict[str, Any]:
    """The built network's whole configuration."""
    config: dict[str, Any] = model.skeleton.empty.config.to_dict()  # type: ignore[union-attr,operator]
    return config


def architecture_of(model: Model) -> str:
    """llama.cpp's name for it. Raises UsageError for a network that it, or this export, has not."""
    config = model.skeleton.config()
    kind = None if config is None else config.get("model_type")
    architecture = ARCHITECTURES.get(str(kind))
    head = type(model.skeleton.empty).__name__
    if architecture is None or not head.endswith("ForCausalLM"):
        raise UsageError(
            f"{model.source} cannot be held by GGUF",
            f"it is a {head}, and exported are {', '.join(ARCHITECTURES)} as causal language models",
            "use --to safetensors and llama.cpp's own converter",
        )
    whole = _config(model)
    window, length = whole.get("sliding_window"), whole["max_position_embeddings"]
    if window is not None and window < length and whole.get("use_sliding_window", True):
        raise UsageError(
            f"{model.source} cannot be held by GGUF",
            f"it sees {window} of {length} positions, and llama.cpp's {architecture} sees all",
            "use --to safetensors",
        )
    if whole.get("hidden_act") != "silu":
        raise UsageError(
            f"{model.source} cannot be held by GGUF", f"its activation is {whole.get('hidden_act')}, not silu"
        )
    return architecture


def names_of(model: Model) -> dict[str, str]:
    """File key -> llama.cpp's name, of the tensors that the network uses.

    Raises UsageError for one that llama.cpp has no place for.
    """
    gguf = _package()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture_of(model)], _config(model)["num_hidden_layers"])
    found = {}
    for key in model.codes:
        name = model.names.get(key)
        if name is None:
            continue
        place = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UsageError(f"{model.source} cannot be held by GGUF", f"llama.cpp has no place for {key}")
        found[key] = place
    return found


def _add_settings(writer: Any, model: Model, conversion: Conversion) -> None:
    """Everything but weights and tokenizer."""
    gguf, config = _package(), _config(model)
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kinds = Counter(each.form for key, each in conversion.held.items() if len(each.code.shape) == 2)
    usual = kinds.most_common(1)[0][0]
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if usual == "F32" else gguf.LlamaFileType[f"MOSTLY_{usual}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(_theta(config))
    writer.add_vocab_size(config["vocab_size"])


def _theta(config: dict[str, Any]) -> float:
    rope = config.get("rope_parameters") or {}
    return float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))


def rope_factors(model: Model) -> NDArray[np.float32] | None:
    """What each rotary frequency is divided by, (head_dim / 2,), where the network scales them; else None.

    Raises UsageError for a scaling that the file cannot say.
    """
    config = _config(model)
    rotary: Any = model.skeleton.empty.get_submodule("model.rotary_emb")
    frequencies = rotary.inv_freq.detach().float().numpy()
    plain = 1.0 / _theta(config) ** (np.arange(len(frequencies), dtype=np.float64) / len(frequencies))
    factors: NDArray[np.float32] = (plain / frequencies).astype(np.float32)
    kind = str((config.get("rope_parameters") or {}).get("rope_type", "default"))
    if kind == "default" and np.allclose(factors, 1, rtol=1e-5):
        return None
    if kind not in ("linear", "llama3") or architecture_of(model) not in TURNED or rotary.attention_scaling != 1:
        raise UsageError(
            f"{model.source} cannot be held by GGUF", f"its positions are scaled by {kind}", "use --to safetensors"
        )
    return factors


def _heads(model: Model, name: str) -> int:
    """Heads of a tensor whose rows are rotated, 0 for any other."""
    config = _config(model)
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else 0


def turned(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows reordered within each head: dimensions i and i + d/2, which are rotated together, lie side by side."""
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _tokenizer_folder(model: Model) -> Path | None:
    """Where the tokenizer lies, None where there is none."""
    folder = model.skeleton.folder
    names = ("tokenizer.json", "tokenizer_config.json")
    return folder if folder is not None and any((folder / name).is_file() for name in names) else None
