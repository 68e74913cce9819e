"""Text against transformers' own greedy loop, written out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rarefy.engines.contenders import ENGINES, Contender, Engine
from rarefy.engines.generate import continuations, generate, written
from rarefy.errors import UsageError

WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate([*WORDS, "<end>", "<unknown>"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unknown>")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=30
    )
    return LlamaForCausalLM(config).eval()


def greedy(model: LlamaForCausalLM, ids: list[int], tokens: int) -> list[int]:
    out: list[int] = []
    while len(out) < tokens:
        out.append(int(model(input_ids=torch.tensor([ids + out])).logits[0, -1].argmax()))
        if out[-1] == 30:
            break
    return out


def test_greedy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    pieces: list[str] = []
    text = generate(model, tokenizer, "w1 w2 w3", tokens=12, stream=pieces.append)
    expected = greedy(model, [1, 2, 3], 12)
    assert text.split() == tokenizer.decode(expected, skip_special_tokens=True).split()
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_stops_at_the_end_token(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    first = greedy(model, [5], 1)[0]
    model.generation_config.eos_token_id = [first, 30]
    try:
        assert generate(model, tokenizer, "w5", tokens=8).split() == [WORDS[first]]
    finally:
        model.generation_config.eos_token_id = 30


def test_several_prompts_at_once(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = ["w1 w2 w3", "w5", "w7 w7", "w11 w4 w9 w2"]
    found, allowed = continuations(model, tokenizer, prompts, 12)
    assert allowed == 12
    for prompt, (ids, ended) in zip(prompts, found, strict=True):
        expected = greedy(model, tokenizer(prompt)["input_ids"], 12)
        assert ended == (expected[-1] == 30)
        assert ids == expected[: len(expected) - ended]


def test_prompts_as_a_turn_of_a_chat(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "w9 {{ messages[0]['content'] }} w8"
    try:
        ((ids, _),), _ = continuations(model, tokenizer, ["w1"], 6)
    finally:
        tokenizer.chat_template = None
    assert ids == [token for token in greedy(model, [9, 1, 8], 6) if token != 30]


def test_no_further_than_it_reads(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    longest = model.config.max_position_embeddings
    model.config.max_position_embeddings = 5
    try:
        assert continuations(model, tokenizer, ["w1 w2", "w1"], 12)[1] == 3
        with pytest.raises(UsageError, match="up to 5 tokens"):
            continuations(model, tokenizer, ["w1 w2 w3 w4 w5"], 12)
    finally:
        model.config.max_position_embeddings = longest


def test_sampling_has_a_seed(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    state = torch.get_rng_state()
    first, again, other = (generate(model, tokenizer, "w1", 12, sample=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_uses(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UsageError, match="no tokenizer"):
        generate(model, None, "w1")
    with pytest.raises(UsageError, match="no tokens"):
        generate(model, tokenizer, "")
    encoder = BertModel(BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16))
    for module in (encoder, torch.nn.Linear(2, 2)):
        for run in (generate, lambda *words: continuations(*words, 4)):
            with pytest.raises(UsageError, match="cannot generate text"):
                run(module, tokenizer, ["w1"])


ENGINE = """
def load(asked):
    class Network:
        facts = {"unit": asked["dtype"]}
        def text(self, prompt, new):
            return f"{prompt} {asked['prompt']} {new}"
    return Network()
"""


def test_an_engine_that_tokenizes_reads_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(ENGINE)
    monkeypatch.setitem(ENGINES, "mine", Engine("mine", "mine", str(tmp_path / "mine.py"), tokenizes=True))
    # Room for a token a byte, and the one that begins a text.
    assert written(Contender("net", "net", "mine", "tokens"), sys.executable, "né", 4) == "né 4 4"
    with pytest.raises(UsageError, match="net writes no text: it is measured in sentences"):
        written(Contender("net", "net", "mine", "sentences"), sys.executable, "one", 4)
    with pytest.raises(UsageError, match="the prompt has no tokens"):
        written(Contender("net", "net", "mine", "tokens"), sys.executable, "", 4)
