"""Blocks in few calls against the same networks whose blocks stay as they are."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StaticCache,
)

from rarefy.codes import Grid
from rarefy.codes.dense import Dense
from rarefy.engines import packed
from rarefy.engines.packed_blocks import BLOCKS, Block
from rarefy.model import Model, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EVERY = {"RMSNorm": 5, "GatedMLP": 2, "Attention": 2}
FAMILIES: dict[str, tuple[PreTrainedConfig, dict[str, int]]] = {
    "llama": (LlamaConfig(**SIZE), EVERY),
    "mistral": (MistralConfig(**SIZE, sliding_window=8), EVERY),
    "qwen2, whose attention has biases": (Qwen2Config(**SIZE), EVERY),
    "qwen3, which norms heads": (Qwen3Config(**SIZE), {**EVERY, "RMSNorm": 9}),
    "gemma": (GemmaConfig(**SIZE), {"OffsetRMSNorm": 5, "GELUMLP": 2, "Attention": 2}),
    "smollm3, one layer without positions": (SmolLM3Config(**SIZE, no_rope_layers=[1, 0]), {**EVERY, "Attention": 1}),
    "cohere, whose neighbours turn": (CohereConfig(**SIZE), {"GatedMLP": 2}),
    "olmo, which clips": (OlmoConfig(**SIZE, clip_qkv=0.5), {"GatedMLP": 2}),
    "llama, gated by another function": (LlamaConfig(**SIZE, hidden_act="relu"), {"RMSNorm": 5, "Attention": 2}),
    "llama, gated with biases": (LlamaConfig(**SIZE, mlp_bias=True), {"RMSNorm": 5, "Attention": 2}),
}


def coded(w: torch.Tensor) -> Any:
    q = torch.clamp(torch.round(w / w.std() * 2) + 8, 0, 15).to(torch.uint8).numpy()
    scale = (w.std() / 2).expand(len(w), 1).numpy()
    return Grid(q, Dense.of(scale, "F32"), None, bits_per_symbol=4, group=w.shape[1], shape=tuple(w.shape))


def network(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config)
    for name, parameter in module.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    model = Model.from_module(module)
    codes = {name: coded(p.detach()) for name, p in module.named_parameters() if p.dim() == 2}
    return model.with_codes({model.keys[name]: code for name, code in codes.items()}, Step("test", {})).packed()


@pytest.fixture
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The network of a configuration as it is, and in few calls."""
    quick = network(request.param)
    monkeypatch.setattr(packed, "quicken", lambda module: None)
    return network(request.param), quick


def kinds(module: torch.nn.Module) -> Counter[str]:
    return Counter(type(child).__mro__[1].__name__ for child in module.modules() if isinstance(child, Block))


def steps(module: Any, ids: torch.Tensor, **given: Any) -> Iterator[torch.Tensor]:
    """Logits of a prompt, then of token after token."""
    with torch.inference_mode():
        found = module(
            ids[:, :6], use_cache=True, **{k: v[:, :6] if k == "attention_mask" else v for k, v in given.items()}
        )
        yield found.logits
        kept = found.past_key_values
        for at in range(6, ids.shape[1]):
            given |= {"past_key_values": kept}
            more = {k: v[:, : at + 1] if k == "attention_mask" else v for k, v in given.items()}
            yield module(ids[:, at : at + 1], use_cache=True, **more).logits


def agree(one: Any, other: Any, ids: torch.Tensor, **given: Any) -> bool:
    made = [list(steps(each, ids, **copy.deepcopy(given))) for each in (one, other)]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*made, strict=True))


IDS = torch.randint(1, 64, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "pair"), [(name, config) for name, (config, _) in FAMILIES.items()], indirect=["pair"]
)
def test_family(name: str, pair: tuple[Any, Any]) -> None:
    plain, quick = pair
    assert kinds(quick) == FAMILIES[name][1] and not kinds(plain)
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0  # padded on the left
    assert agree(plain, quick, IDS[:1])
    assert agree(plain, quick, IDS)
    assert agree(plain, quick, IDS, attention_mask=mask)
    assert not torch.allclose(*(list(steps(quick, ids))[-1] for ids in (IDS[:1], IDS[1:2])))


LLAMA = pytest.mark.parametrize("pair", [FAMILIES["llama"][0]], indirect=True)


@LLAMA
def test_a_static_cache(pair: tuple[Any, Any]) -> None:
    given = [{"past_key_values": StaticCache(config=each.config, max_cache_len=32), "module": each} for each in pair]
    made = [list(steps(each.pop("module"), IDS[:1], **each)) for each in given]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*made, strict=True))


@LLAMA
def test_eager_attention_gives_its_weights(pair: tuple[Any, Any]) -> None:
    for each in pair:
        each.set_attn_implementation("eager")
    found = [each(IDS[:1, :1], output_attentions=True) for each in pair]
    assert torch.allclose(found[0].logits, found[1].logits, atol=1e-5)
    assert torch.equal(found[1].attentions[0], torch.ones(1, 4, 1, 1))


def test_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    config, expected = FAMILIES["llama"]
    exact = list(steps(network(config), IDS))
    monkeypatch.setattr(packed, "computing", lambda device: torch.bfloat16)
    quick = network(config)
    monkeypatch.setattr(packed, "quicken", lambda module: None)
    made = [list(steps(each, IDS)) for each in (network(config), quick)]
    assert kinds(quick) == expected and made[1][0].dtype is torch.bfloat16
    for true, slow, fast in zip(exact, *made, strict=True):
        assert (fast - true).norm() <= 1.3 * (slow - true).norm() <= 0.1 * true.norm()


@LLAMA
@pytest.mark.parametrize("path", ["self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "self_attn", "mlp"])
def test_hooks_are_called(path: str, pair: tuple[Any, Any]) -> None:
    seen: list[list[torch.Tensor]] = []
    for each in pair:
        seen.append([])
        layer = each.get_submodule(f"model.layers.1.{path}")
        layer.register_forward_hook(lambda module, given, out, to=seen[-1]: to.append(out[0]))
        list(steps(each, IDS[:1, :8]))
    assert len(seen[0]) == 3
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*seen, strict=True))


@LLAMA
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_adapters_are_between(pair: tuple[Any, Any]) -> None:
    peft = pytest.importorskip("peft")
    adapted, before = [], list(steps(pair[1], IDS[:1]))[-1]
    for each in pair:
        torch.manual_seed(1)
        settings = peft.LoraConfig(r=2, target_modules=["v_proj", "down_proj"], init_lora_weights=False)
        adapted.append(peft.get_peft_model(each, settings).eval())
    assert agree(*adapted, IDS[:1])
    assert not torch.allclose(before, list(steps(adapted[1], IDS[:1]))[-1], atol=1e-3)


@LLAMA
def test_gradients_go_through(pair: tuple[Any, Any]) -> None:
    found = []
    for each in pair:
        norm = each.model.layers[0].input_layernorm.weight
        x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        each(inputs_embeds=x).logits.square().sum().backward()
        found.append((x.grad, norm.grad))
    assert found[1][1].norm() > 0
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*found, strict=True))


@LLAMA
def test_copies_are_apart(pair: tuple[Any, Any]) -> None:
    plain, quick = pair
    other = copy.deepcopy(quick)
    with torch.no_grad():
        quick.model.norm.weight.zero_()
        quick.model.layers[0].input_layernorm.weight.zero_()
    assert kinds(other) == EVERY and agree(plain, other, IDS[:1])


@LLAMA
def test_compiles(pair: tuple[Any, Any]) -> None:
    _, quick = pair
    compiled = torch.compile(quick, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IDS[:1, :1]).logits, quick(IDS[:1, :1]).logits, atol=1e-5)


@LLAMA
def test_training_goes_by_the_blocks_themselves(pair: tuple[Any, Any]) -> None:
    quick = pair[1].train()
    quick.model.layers[0].self_attn.attention_dropout = 0.9
    torch.manual_seed(0)
    with torch.no_grad():
        kept = quick(IDS[:1, :9]).past_key_values
        one, other = (quick(IDS[:1, 9:10], past_key_values=copy.deepcopy(kept)).logits for _ in range(2))
    assert not torch.allclose(one, other)


def test_kinds_are_all_tried() -> None:
    assert {name for _, each in FAMILIES.values() for name in each} == {kind.__name__ for kind in BLOCKS}
