"""What GGUF says of a network beside its weights: architecture, names, sizes, rotary positions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.errors import RarefyError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.export.target import Conversion
    from rarefy.model import Model

ARCHITECTURES: Final = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model types -> llama.cpp's architectures."""

TURNED: Final = {"llama"}
"""Architectures in which the two dimensions that are rotated together lie side by side."""


def package() -> Any:
    try:
        import gguf
    except ImportError:
        raise RarefyError(
            "GGUF cannot be written", "the package gguf is not installed", "pip install rarefy[gguf]"
        ) from None
    return gguf


def config_of(model: Model) -> dict[str, Any]:
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
    whole = config_of(model)
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
    gguf = package()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture_of(model)], config_of(model)["num_hidden_layers"])
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


def add_settings(writer: Any, model: Model, conversion: Conversion) -> None:
    """Everything but weights and tokenizer."""
    gguf, config = package(), config_of(model)
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
    config = config_of(model)
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


def heads_of(model: Model, name: str) -> int:
    """Heads of a tensor whose rows are rotated, 0 for any other."""
    config = config_of(model)
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else 0


def turned(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows reordered within each head: dimensions i and i + d/2, which are rotated together, lie side by side."""
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
