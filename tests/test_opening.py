"""Everything that can be opened, and one line for everything that cannot."""

import gc
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rarefy.codes import Dense, Grid
from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.methods.quantize.rtn import RTN
from rarefy.opening import is_artifact, open_model
from rarefy.plan.compress import compress


def first(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def outputs(net: nn.Module, name: str) -> torch.Tensor:
    return first(net(torch.from_numpy(tiny.inputs(name))))


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny.build("llama").save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", [*tiny.TOKENS, "resnet", "resnet_base"])
def test_a_directory_is_the_network_that_was_saved(name: str, tmp_path) -> None:
    net = tiny.build(name)
    net.save_pretrained(tmp_path / "net")
    model = open_model(str(tmp_path / "net"))
    torch.testing.assert_close(outputs(model.module(), name), outputs(net, name), rtol=0, atol=0)
    assert model.weights == sum(p.numel() for p in net.parameters()) and model.history == ()
    assert set(model.dtypes.values()) <= {"F32", "I64"}


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_shards_make_the_same_network(name: str, tmp_path) -> None:
    net = tiny.build(name)
    net.save_pretrained(tmp_path / "whole")
    net.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) >= 3
    whole, parts = open_model(tmp_path / "whole"), open_model(tmp_path / "parts")
    assert set(whole.codes) == set(parts.codes) and whole.weights == parts.weights
    torch.testing.assert_close(outputs(parts.module(), name), outputs(net, name), rtol=0, atol=0)


def test_a_missing_shard_is_named(tmp_path) -> None:
    tiny.build("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FormatError, match=f"lacks its shard {gone.name}; fetch the missing file"):
        open_model(tmp_path)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(FormatError, match=r"lack 1 of the network's tensors \(model.layers.1.mlp.down_proj.weight\)"):
        open_model(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(65, 32)}))
    with pytest.raises(FormatError, match=r"lm_head.weight has shape \[65, 32\], the network wants \[64, 32\]"):
        open_model(folder)


def test_extra_tensors_are_carried_along_and_no_weights(folder: Path) -> None:
    extra = {"rotary.inv_freq": torch.arange(4.0), "empty": torch.zeros(0, 3), "scalar": torch.tensor(3)}
    before = open_model(folder).weights
    rewrite(folder, lambda weights: weights.update(extra))
    model = open_model(folder)
    assert set(extra) <= set(model.codes) and model.weights == before
    assert all(model.is_buffer(key) for key in extra) and not model.is_buffer("lm_head.weight")
    assert model.codes["empty"].decode().shape == (0, 3) and int(model.codes["scalar"].decode()) == 3
    assert outputs(model.module(), "llama").shape == (6, 12, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_in_its_values(dtype: torch.dtype, tmp_path) -> None:
    net = tiny.build("llama").to(dtype)
    net.save_pretrained(tmp_path)
    model = open_model(tmp_path)
    assert set(model.dtypes.values()) == {"BF16" if dtype == torch.bfloat16 else "F16"}
    full = tiny.build("llama")  # whose rotary frequencies were never rounded
    full.load_state_dict({key: value.float() for key, value in net.state_dict().items()})
    torch.testing.assert_close(outputs(model.module(), "llama"), outputs(full, "llama"), rtol=0, atol=0)
    assert next(model.module(dtype=dtype).parameters()).dtype == dtype


def test_pickles_are_refused_and_never_read(tmp_path, folder: Path) -> None:
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save(Evil(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no safetensors: it has pytorch_model.bin, .*pickles can run code.*; load"):
        open_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UsageError, match="has no safetensors: it has no weights"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_network_is_one_line(tmp_path, folder: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\0\0\0 and then nothing")
    (tmp_path / "empty").mkdir()
    for source, line in [
        (tmp_path / "absent", "does not exist; give a directory"),
        (tmp_path / "file.txt", "is not a network: a network is a directory"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "bad.gguf", "cannot be read as GGUF"),
        ("no_such_module:factory", "no_such_module:factory cannot be called"),
        (f"tiny:chain@{tmp_path / 'absent'}", "absent does not exist"),
    ]:
        with pytest.raises(RarefyError, match=line) as caught:
            open_model(source)
        assert "\n" not in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="names no architecture"):
        open_model(folder)
    config |= {"architectures": ["NoNet"], "auto_map": {"AutoModel": "modeling.NoNet"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RarefyError, match="has no NoNet: it needs remote code, which Rarefy never runs"):
        open_model(folder)


def test_tied_weights_that_both_stand_in_the_file_are_one(tmp_path) -> None:
    net = tiny.build("llama_tied")
    net.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    model = open_model(tmp_path)
    assert "lm_head.weight" not in model.codes
    torch.testing.assert_close(outputs(model.module(), "llama"), outputs(net, "llama"), rtol=0, atol=0)
    rewrite(tmp_path, lambda w: w["lm_head.weight"].mul_(2))
    with pytest.raises(FormatError, match="lm_head.weight and model.embed_tokens.weight differ"):
        open_model(tmp_path)


def test_a_bare_encoder_opens_from_a_checkpoint_with_a_head(tmp_path) -> None:
    net = tiny.build("bert_classifier")
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = open_model(tmp_path)
    torch.testing.assert_close(outputs(model.module(), "bert"), outputs(net.bert, "bert"), rtol=0, atol=0)
    assert model.is_buffer("classifier.weight") and "classifier.weight" in model.codes


def test_factories_with_and_without_weights(tmp_path) -> None:
    net = tiny.build("chain")
    with torch.no_grad():
        net[0].weight.add_(1)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    model = open_model(f"tiny:chain@{tmp_path / 'w.safetensors'}")
    torch.testing.assert_close(outputs(model.module(), "chain"), outputs(net, "chain"), rtol=0, atol=0)
    assert open_model("tiny:chain").codes["0.weight"].decode().shape == (24, 20)
    compress(model, tmp_path / "out", RTN(bits=8, exclude=("5.*",)), threads=1)
    again = open_model(f"tiny:chain@{tmp_path / 'out'}")
    assert isinstance(again.codes["0.weight"], Grid) and isinstance(again.codes["5.weight"], Dense)
    assert [step.method for step in again.history] == ["quantize.rtn"]
    with pytest.raises(UsageError, match="which code runs; if you trust that code, give tiny:chain@"):
        open_model(tmp_path / "out")


def test_an_artifact_of_a_module_wants_the_module(tmp_path) -> None:
    net = tiny.build("chain")
    compress(net, tmp_path / "out", RTN(bits=8), threads=1)
    assert is_artifact(tmp_path / "out") and not is_artifact(tmp_path)
    with pytest.raises(UsageError, match=r"weights of a Sequential, not how to build it; open it in Python"):
        open_model(tmp_path / "out")
    model = open_model(tmp_path / "out", module=net)
    np.testing.assert_allclose(outputs(model.module(), "chain"), outputs(net, "chain"), atol=0.1)
    with pytest.raises(FormatError, match="has shape|lack"):
        open_model(tmp_path / "out", module=nn.Sequential(nn.Linear(20, 3)))


def write_gguf(path: Path, net: nn.Module) -> None:
    """A Llama as llama.cpp's converter writes it: rotary halves interleaved, a sentencepiece vocabulary."""
    config = net.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(chr(97 + i % 26) * (1 + i // 26) for i in range(61))])
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(61)])
    writer.add_token_types([2, 3, 3] + [1] * 61)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, value in net.state_dict().items():
        w = value.numpy()
        for part, count in heads.items():
            if part in key:
                w = w.reshape(count, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), np.ascontiguousarray(w))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_opens_with_config_and_tokenizer(tmp_path) -> None:
    net = tiny.build("llama")
    write_gguf(tmp_path / "tiny.gguf", net)
    model = open_model(tmp_path / "tiny.gguf")
    torch.testing.assert_close(outputs(model.module(), "llama"), outputs(net, "llama"), rtol=0, atol=0)
    assert Path("tokenizer.json") in model.skeleton.side_files()
    compress(model, tmp_path / "out", RTN(bits=8, group=0), threads=1)
    again = open_model(tmp_path / "out")
    np.testing.assert_allclose(outputs(again.module(), "llama"), outputs(net, "llama"), atol=0.2)
    folder = model.skeleton.folder
    del model, again
    gc.collect()
    assert folder is not None and not folder.exists()


def test_weights_that_another_tool_quantized_are_refused(tmp_path) -> None:
    tiny.build("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for told in ({"quantization_config": {"quant_method": "fp8"}}, {"compression_config": {"format": "int-quantized"}}):
        (tmp_path / "config.json").write_text(json.dumps(config | told))
        with pytest.raises(UsageError, match=r"is quantized by (fp8|another tool): .*; .*rarefy pack"):
            open_model(tmp_path)


def test_batch_norms_statistics_are_no_weights(tmp_path) -> None:
    net = tiny.build("torch_resnet")
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    result = compress(f"tiny:torch_resnet@{tmp_path / 'w.safetensors'}", tmp_path / "out", RTN(bits=8), threads=1)
    weights = sum(p.numel() for p in net.parameters())
    assert result.weights == weights and result.bpw == pytest.approx(8 * result.bytes / weights)
    again = open_model(f"tiny:torch_resnet@{tmp_path / 'out'}").module()
    for key, value in net.named_buffers():
        assert torch.equal(again.get_buffer(key), value)


@pytest.mark.parametrize("name", ["torch_resnet", "resnet"])
def test_a_file_older_than_the_counts_of_batches_opens(name: str, tmp_path) -> None:
    net = tiny.build(name)
    state = net.state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    if name == "resnet":
        net.save_pretrained(tmp_path / "net")
        save_file(old, tmp_path / "net" / "model.safetensors", {"format": "pt"})
        source = str(tmp_path / "net")
    else:
        save_file(old, tmp_path / "w.safetensors")
        source = f"tiny:{name}@{tmp_path / 'w.safetensors'}"
    compress(source, tmp_path / "out", RTN(bits=8), threads=1)
    back = open_model(source).module().state_dict()
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) if key in old else not back[key].any() for key in state)
