"""Comparisons against literal loops over blocks, and what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from measure.networks import Bigram, Linear, blocks, examples

import rarefy
from rarefy.errors import RarefyError, UsageError
from rarefy.evidence.pairs import Pairs
from rarefy.evidence.sources import Sentences, topics
from rarefy.measure.compare import compare
from rarefy.measure.degeneration import degeneration, speak
from rarefy.measure.proportions import wilson

STORIES = Path(__file__).parents[3] / "shared/data/lm/stories260K"


def noisy(**noise):
    """Networks that differ from the original by so much."""
    return {name: Bigram(seed, size) for seed, (name, size) in enumerate(noise.items(), 1)}


def log_law(network, ids):
    return scipy.special.log_softmax(network.table.weight.detach().double().numpy(), axis=-1)[ids]


def by_block(original, network, ids):
    """KL, negative log likelihood and share of answers unlike the original's, a block at a time."""
    kl, nll, unlike = [], [], []
    for block in ids:
        log_p, log_q = log_law(original, block), log_law(network, block)
        kl.append(np.mean([(np.exp(p) * (p - q)).sum() for p, q in zip(log_p, log_q, strict=True)]))
        nll.append(np.mean([-log_q[t, block[t + 1]] for t in range(len(block) - 1)]))
        unlike.append(np.mean([p.argmax() != q.argmax() for p, q in zip(log_p, log_q, strict=True)]))
    return np.array(kl), np.array(nll), np.array(unlike)


def literal_draws(statistic, n):
    """2000 draws of n blocks, sorted; `statistic` of the blocks' numbers."""
    rng = np.random.default_rng(0)
    return sorted(statistic(rows) for rows in rng.integers(0, n, (2000, n)))


def test_language_models_against_literal_bootstraps():
    data, original, networks = blocks(), Bigram(), noisy(a=0.3, b=0.32)
    margins = {"kl": 0.005, "perplexity": 0.1, "nll": 0.0}
    found = compare(networks, data, original=original, margins=margins)
    (kl_a, nll_a, unlike_a), (kl_b, nll_b, _) = (by_block(original, net, data.ids) for net in networks.values())
    pair, against_a, against_b = found.pairs
    assert [(p.first, p.second) for p in found.pairs] == [("a", "b"), ("a", "the original"), ("b", "the original")]

    draws = {
        "kl": literal_draws(lambda rows: (kl_a - kl_b)[rows].mean(), 70),
        "nll": literal_draws(lambda rows: (nll_a - nll_b)[rows].mean(), 70),
        "perplexity": literal_draws(lambda rows: math.exp(nll_a[rows].mean()) - math.exp(nll_b[rows].mean()), 70),
    }
    for each in pair.no_worse:
        name, values = each.measure, draws[each.measure]
        interval = pair.differences[name]
        assert [interval.low, interval.high] == pytest.approx([values[49], values[1950]], abs=1e-6)
        assert each.confidence == pytest.approx(sum(v <= margins[name] for v in values) / 2001, abs=2e-3)
        assert each.holds == (each.confidence >= 0.95)
    assert pair.differences["kl"].value == pytest.approx((kl_a - kl_b).mean(), abs=1e-7)
    top_a, top_b = (log_law(network, data.ids).argmax(-1) for network in networks.values())
    assert pair.changed.value == pytest.approx((top_a != top_b).mean())

    assert against_a.differences["kl"] == found.networks["a"].kl
    assert found.networks["a"].kl.value == pytest.approx(kl_a.mean(), rel=1e-5)
    assert against_a.changed.value == pytest.approx(unlike_a.mean())
    rng = np.random.default_rng(0)
    means = np.sort(unlike_a[rng.integers(0, 70, (2000, 70))].mean(1))
    assert [against_a.changed.low, against_a.changed.high] == pytest.approx([means[49], means[1950]])
    assert found.original.kl.value == 0.0
    assert against_b.outcomes is None


def test_who_is_better():
    found = compare(noisy(far=0.8, near=0.1), blocks(), original=Bigram()).pairs[0]
    assert found.better("kl") == "near"
    same = compare({"x": Bigram(1, 0.3), "y": Bigram(1, 0.3)}, blocks(), original=Bigram()).pairs[0]
    assert same.better("kl") is None
    assert same.changed.value == 0.0


def test_classifiers():
    data = examples()
    networks = {"a": Linear(6, 4, 1), "b": Linear(6, 4, 2)}
    found = compare(networks, data, margins={"accuracy": 0.3})
    x = torch.from_numpy(data.x)
    answers = [net(x).argmax(1).numpy() for net in networks.values()]
    right = [answer == data.y for answer in answers]
    (pair,) = found.pairs
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert [pair.outcomes.first, pair.outcomes.second] == only
    p = scipy.stats.binomtest(min(only), sum(only)).pvalue
    assert pair.as_json()["mcnemar"] == {"only_first": only[0], "only_second": only[1], "p": pytest.approx(p)}
    assert pair.differences["accuracy"].value == pytest.approx(right[0].mean() - right[1].mean())
    assert pair.changed == wilson(int((answers[0] != answers[1]).sum()), 100)
    assert pair.no_worse[0].confidence == pair.outcomes.at_least(-0.3)
    assert found.original is None
    assert "kl" not in pair.differences


def test_encoders_on_scored_pairs():
    rng = np.random.default_rng(3)
    sides = [tuple(rng.integers(0, 9, 4) for _ in range(64)) for _ in range(2)]
    gold = rng.normal(size=64)
    data = Pairs(*(Sentences(side, "", "t") for side in sides), gold, "t")
    tables = {name: rng.normal(size=(9, 5)).astype(np.float32) for name in "ab"}
    networks = {n: lambda input_ids, attention_mask, t=t: torch.from_numpy(t)[input_ids] for n, t in tables.items()}
    (pair,) = compare(networks, data, margins={"spearman": 0.1}).pairs

    def cosines(table):
        u, v = (np.stack([table[row].mean(0) for row in side]) for side in sides)
        return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)

    a, b = (cosines(table) for table in tables.values())
    rho = lambda rows, c: scipy.stats.spearmanr(gold[rows], c[rows]).statistic  # noqa: E731
    draws = literal_draws(lambda rows: rho(rows, a) - rho(rows, b), 64)
    interval = pair.differences["spearman"]
    assert [interval.low, interval.high] == pytest.approx([draws[49], draws[1950]], abs=1e-6)
    assert pair.no_worse[0].confidence == pytest.approx(sum(d >= -0.1 for d in draws) / 2001, abs=1e-3)
    assert pair.changed is None


def test_what_was_compared_travels_as_json():
    found = compare(noisy(a=0.3, b=0.4), blocks(), original=Bigram(), margins={"kl": 0.1})
    for pair in found.pairs:
        said = pair.as_json()
        assert json.loads(json.dumps(said, allow_nan=False)) == said
        assert set(said) == {"first", "second", "difference", "better", "changed", "no_worse"}


@pytest.mark.parametrize(
    ("margins", "told"),
    [
        ({"kl": 0.1}, "no kl .* measured are nll, perplexity; give the original"),
        ({"accuracy": 0.1}, "no accuracy"),
        ({"nll": -0.1}, "holds nobody"),
        ({"nll": math.nan}, "holds nobody"),
    ],
)
def test_margins_are_refused_before_anything_runs(margins, told):
    def network(ids):
        raise AssertionError("it ran")

    with pytest.raises(UsageError, match=told):
        compare({"a": network, "b": network}, blocks(), margins=margins)


def test_what_is_wrong_is_one_line():
    with pytest.raises(UsageError, match="with itself"):
        compare({"a": Bigram()}, blocks())
    with pytest.raises(RarefyError, match="b's output is not a number: in block 0"):
        compare({"a": Bigram(), "b": lambda ids: torch.full((*ids.shape, 11), math.nan)}, blocks())
    with pytest.raises(UsageError, match="shapes"):
        compare({"a": Linear(6, 4)}, examples(), original=Linear(6, 5))


@pytest.fixture(scope="module")
def stories():
    """The story teller, a copy with a little noise in every matrix, and one with much."""
    if not STORIES.exists():
        pytest.skip("needs ../shared/data/lm/stories260K")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    networks = [AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32) for _ in range(3)]
    torch.manual_seed(0)
    for network, noise in zip(networks, (0.0, 0.05, 1.0), strict=True):
        for weight in network.parameters():
            weight.data += noise * weight.std() * torch.randn_like(weight)
    return networks, AutoTokenizer.from_pretrained(STORIES)


def test_a_real_language_model(stories):
    (original, little, much), tokenizer = stories
    tokens = topics().evaluation.tokens(tokenizer, length=64, limit=8)
    found = compare({"little": little, "much": much}, tokens, original=original, margins={"kl": 0.0})
    ids = torch.from_numpy(tokens.ids)
    with torch.no_grad():
        p, q, r = (net(ids).logits.double().log_softmax(-1) for net in (original, little, much))
    pair = found.pairs[0]
    kl = [(p.exp() * (p - other)).sum(-1).mean(1).numpy() for other in (q, r)]
    assert pair.differences["kl"].value == pytest.approx((kl[0] - kl[1]).mean(), rel=1e-4)
    assert pair.better("kl") == "little"
    assert pair.no_worse[0].holds
    unlike = (p.argmax(-1) != q.argmax(-1)).double().mean().item()
    assert found.pairs[1].changed.value == pytest.approx(unlike, abs=2 / ids.numel())  # but for ties in float32


def test_a_real_language_model_that_broke_is_noticed(stories):
    (original, little, broken), tokenizer = stories
    broken.load_state_dict(original.state_dict())
    for layer in broken.model.layers:  # deaf to all but the last token, whose successor is then always the same
        layer.self_attn.o_proj.weight.data.zero_()
    before, fine, after = (speak(network, tokenizer, tokens=100) for network in (original, little, broken))
    assert before.continuations[0].text.startswith("a little girl named Lily.")
    assert before.loops == 0
    assert degeneration("fine", fine, before) == []
    assert after.loops >= 6
    assert after.distinct(4) < 0.5 * before.distinct(4)
    assert "broken falls into loops in" in degeneration("broken", after, before)[0]


def test_it_is_public():
    assert rarefy.compare is compare
