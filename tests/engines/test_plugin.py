"""from_pretrained of an artifact against from_pretrained of the dense checkpoint that it stands for."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Qwen3Config,
    ResNetConfig,
    ViTConfig,
)

from rarefy.errors import FormatError, UsageError
from rarefy.files.safetensors import TensorFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Pair

    Write = Callable[..., Pair]

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BERT = BertConfig(**{k: v for k, v in TEXT.items() if k != "num_key_value_heads"}, num_labels=3)
CONFIGS: dict[str, tuple[Any, Any]] = {
    "llama-tied": (AutoModelForCausalLM, LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "llama-untied": (AutoModelForCausalLM, LlamaConfig(**TEXT, tie_word_embeddings=False)),
    "qwen3": (AutoModelForCausalLM, Qwen3Config(**TEXT, head_dim=8)),
    "gpt2": (AutoModelForCausalLM, GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)),
    "gpt-neox": (
        AutoModelForCausalLM,
        GPTNeoXConfig(**{k: v for k, v in TEXT.items() if k != "num_key_value_heads"}),
    ),
    "vit": (
        AutoModelForImageClassification,
        ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16),
    ),
    "mixtral": (AutoModelForCausalLM, MixtralConfig(**TEXT, num_local_experts=3)),
    "bert": (AutoModel, BERT),
    "resnet": (
        AutoModelForImageClassification,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5),
    ),
}


def expect_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    """The same names, types and bits, on the processor, in memory of its own."""
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert ours[name].device.type == "cpu", name
        assert torch.equal(ours[name], value), name


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(CONFIGS["llama-tied"][1])


@pytest.mark.parametrize("grid", [False, True], ids=["dense", "grid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_restores(name: str, dtype: torch.dtype, grid: bool, write: Write) -> None:
    auto, config = CONFIGS[name]
    pair = write(auto.from_config(config).to(dtype), grid=grid)
    found, info = auto.from_pretrained(pair.artifact, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expect_same(found, auto.from_pretrained(pair.dense))
    assert found.dtype == dtype
    assert all(p.requires_grad for p in found.parameters())


def test_ties_stay_tied(llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama)
    assert "lm_head.weight" not in load_file(pair.artifact / "model.safetensors")
    found = AutoModelForCausalLM.from_pretrained(pair.artifact)
    assert found.lm_head.weight is found.model.embed_tokens.weight


def test_sharded(llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama, shard=5000)
    assert len(list(pair.artifact.glob("*.safetensors"))) > 2
    expect_same(AutoModelForCausalLM.from_pretrained(pair.artifact), AutoModelForCausalLM.from_pretrained(pair.dense))


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "bert"])
def test_single_layout(name: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto, config = CONFIGS[name]
    pair = write(auto.from_config(config), grid=True, single=True)
    assert list(load_file(pair.artifact / "model.safetensors")) == ["rarefy"]
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found, info = auto.from_pretrained(pair.artifact, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expect_same(found, auto.from_pretrained(pair.dense))
    assert not list((tmp_path / "temporary").iterdir())


def test_single_layout_damaged(
    llama: LlamaForCausalLM, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write(llama, grid=True, single=True)
    damage(pair.artifact, "rarefy")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(FormatError, match="is damaged: its checksum is wrong"):
        AutoModelForCausalLM.from_pretrained(pair.artifact)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification, transformers.AutoModelForMaskedLM])
@pytest.mark.parametrize("prefixed", [False, True])
def test_base_and_heads(auto: Any, prefixed: bool, write: Write) -> None:
    model = BertForSequenceClassification(BERT)
    pair = write(model if prefixed else model.bert, grid=True)
    found, info = auto.from_pretrained(pair.artifact, output_loading_info=True)
    expected, expected_info = auto.from_pretrained(pair.dense, output_loading_info=True)
    assert info == expected_info
    expect_same(found.base_model, expected.base_model)
    assert not any(p.is_meta for p in found.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, "auto", "float32"])
def test_dtype_is_the_callers(dtype: Any, llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama, grid=True)
    expect_same(
        AutoModelForCausalLM.from_pretrained(pair.artifact, dtype=dtype),
        AutoModelForCausalLM.from_pretrained(pair.dense, dtype=dtype),
    )


def test_keeps_in_float32_what_the_model_says(write: Write) -> None:
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    pair = write(transformers.T5ForConditionalGeneration(config))
    found = transformers.AutoModelForSeq2SeqLM.from_pretrained(pair.artifact, dtype=torch.float16)
    assert found.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    expect_same(found, transformers.AutoModelForSeq2SeqLM.from_pretrained(pair.dense, dtype=torch.float16))


@pytest.mark.parametrize("hint", [None, "bfloat16", "no such type"])
def test_config_without_dtype(hint: str | None, llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama)
    config = json.loads((pair.artifact / "config.json").read_text())
    del config["dtype"]
    if hint is not None:
        config["quantization_config"]["dtype"] = hint
    (pair.artifact / "config.json").write_text(json.dumps(config))
    found = AutoModelForCausalLM.from_pretrained(pair.artifact)
    assert found.dtype == (torch.bfloat16 if hint == "bfloat16" else torch.float32)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_device_map_over_shards(name: str, device_map: Any, write: Write) -> None:
    auto, config = CONFIGS[name]
    pair = write(auto.from_config(config), grid=True, shard=5000)
    assert len(list(pair.artifact.glob("*.safetensors"))) > 2
    expect_same(auto.from_pretrained(pair.artifact, device_map=device_map), auto.from_pretrained(pair.dense))


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "gpt2", "gpt-neox", "vit", "bert", "resnet"])
def test_saves_an_ordinary_checkpoint(name: str, write: Write, tmp_path: Path) -> None:
    auto, config = CONFIGS[name]
    pair = write(auto.from_config(config), grid=True)
    found = auto.from_pretrained(pair.artifact)
    found.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    again, dense = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", pair.dense))
    assert again.keys() == dense.keys()
    assert all(torch.equal(again[key], dense[key]) for key in dense)
    expect_same(auto.from_pretrained(tmp_path / "again"), found)


def test_is_an_ordinary_module(llama: LlamaForCausalLM, write: Write) -> None:
    found = AutoModelForCausalLM.from_pretrained(write(llama).artifact)
    assert not found.is_quantized
    assert not hasattr(found, "hf_quantizer")
    found.to(torch.float64).float()
    ids = torch.arange(8)[None]
    found(input_ids=ids, labels=ids).loss.backward()
    assert torch.equal(found(input_ids=ids).logits, llama.eval()(input_ids=ids).logits)


def damage(folder: Path, key: str) -> None:
    """Flip one bit in the middle of a tensor of the artifact."""
    file = folder / "model.safetensors"
    entry = TensorFile(file).entries[key]
    data = bytearray(file.read_bytes())
    data[entry.start + entry.size // 2] ^= 16
    file.write_bytes(data)


def test_damage_is_named(llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama, grid=True)
    damage(pair.artifact, "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(FormatError, match=r"model\.layers\.1\.mlp\.up_proj\.weight cannot be decoded: ") as error:
        AutoModelForCausalLM.from_pretrained(pair.artifact)
    assert "\n" not in str(error.value)


def test_damage_before_a_merge_is_an_error(write: Write) -> None:
    auto, config = CONFIGS["mixtral"]
    pair = write(auto.from_config(config), grid=True)
    keys = load_file(pair.artifact / "model.safetensors")
    damage(pair.artifact, next(key for key in keys if "experts" in key))
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        auto.from_pretrained(pair.artifact)


def test_newer_version(llama: LlamaForCausalLM, write: Write) -> None:
    pair = write(llama)
    config = json.loads((pair.artifact / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (pair.artifact / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="newer rarefy"):
        AutoModelForCausalLM.from_pretrained(pair.artifact)


def test_no_offload_to_disk(llama: LlamaForCausalLM, write: Write, tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers": "disk", "model.norm": "disk"}
    with pytest.raises(UsageError, match="rarefy unpack"):
        AutoModelForCausalLM.from_pretrained(write(llama).artifact, device_map=places, offload_folder=tmp_path / "off")


def test_dense_model_is_not_compressed_by_loading(llama: LlamaForCausalLM, write: Write) -> None:
    from rarefy.engines.plugin import RarefyConfig

    with pytest.raises(UsageError, match="rarefy compress"):
        AutoModelForCausalLM.from_pretrained(write(llama).dense, quantization_config=RarefyConfig())


def test_old_transformers(llama: LlamaForCausalLM, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.quantizers.base import HfQuantizer

    pair = write(llama)
    monkeypatch.delattr(HfQuantizer, "get_new_dtype")
    with pytest.raises(UsageError, match=r"transformers 5\.21"):
        AutoModelForCausalLM.from_pretrained(pair.artifact)
