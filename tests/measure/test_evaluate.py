import json
import math
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from measure.networks import VOCABULARY, Bigram, Linear, blocks, examples

from rarefy.errors import RarefyError, UsageError
from rarefy.evidence.pairs import Pairs
from rarefy.evidence.sources import Arrays, Sentences, Text, Tokens, topics
from rarefy.measure import divergence
from rarefy.measure.evaluate import evaluate

STORIES = Path(__file__).parents[3] / "shared/data/lm/stories260K"


def log_law(network, ids):
    table = network.table.weight.detach().double().numpy()
    return scipy.special.log_softmax(table, axis=-1)[ids]


def test_a_language_model_against_its_original():
    data, original, network = blocks(), Bigram(), Bigram(seed=1, noise=0.3)
    found = evaluate(network, data, against=original)
    log_p, log_q = log_law(original, data.ids), log_law(network, data.ids)

    def nll(log):
        return -np.take_along_axis(log[:, :-1], data.ids[:, 1:, None], -1).mean()

    assert found.blocks == 70
    assert found.kl.value == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rel=1e-5)
    assert found.perplexity.value == pytest.approx(math.exp(nll(log_q)), rel=1e-6)
    assert found.reference.perplexity.value == pytest.approx(math.exp(nll(log_p)), rel=1e-6)
    assert found.difference.value == pytest.approx(found.perplexity.value - found.reference.perplexity.value)
    for interval in (found.kl, found.perplexity, found.difference):
        assert interval.low < interval.value < interval.high
    assert found.warnings == ()
    assert found.accuracy is None
    assert found.reference.kl is None


def test_the_interval_of_perplexity_is_exp_of_that_of_the_likelihood():
    found = evaluate(Bigram(), blocks())
    nll = found.figures.nll
    rng = np.random.default_rng(0)
    means = np.sort(nll[rng.integers(0, 70, (2000, 70))].mean(1))
    assert found.perplexity.low == pytest.approx(math.exp(means[49]), rel=1e-3)
    assert found.perplexity.high == pytest.approx(math.exp(means[1950]), rel=1e-3)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_changes_nothing(batch):
    whole = evaluate(Bigram(1, 0.3), blocks(), against=Bigram())
    some = evaluate(Bigram(1, 0.3), blocks(), against=Bigram(), batch=batch)
    np.testing.assert_allclose(some.figures.kl, whole.figures.kl, rtol=1e-6)
    np.testing.assert_allclose(some.figures.nll, whole.figures.nll, rtol=1e-6)
    np.testing.assert_array_equal(some.figures.answers, whole.figures.answers)


def test_a_network_against_itself_is_exactly_zero():
    network = Bigram()
    found = evaluate(network, blocks(), against=network)
    assert found.kl.as_json() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found.difference.value == 0.0
    assert network.training
    assert network.dropout.training


def test_a_frozen_submodule_stays_frozen():
    network = Bigram()
    network.dropout.eval()
    with pytest.raises(UsageError, match="cannot read"):
        evaluate(network, Tokens(np.full((2, 3), 99), "", "t"))
    assert network.training
    assert not network.dropout.training


def test_only_one_batch_of_logits_lives_at_a_time():
    alive = weakref.WeakSet()
    most = 0

    def network(ids):
        nonlocal most
        most = max(most, len(alive) + 1)
        logits = torch.nn.functional.one_hot(ids, VOCABULARY).float()
        alive.add(logits)
        return logits

    evaluate(network, blocks(20), against=network, batch=2)
    assert most == 2


def test_progress_counts_blocks():
    seen = []
    evaluate(Bigram(), blocks(70), batch=32, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(32, 70), (64, 70), (70, 70)]


def test_a_classifier():
    data, original, network = examples(), Linear(6, 4), Linear(6, 4, seed=1)
    found = evaluate(network, data, against=original)
    x = torch.from_numpy(data.x)
    right, was_right = ((net(x).argmax(1).numpy() == data.y) for net in (network, original))
    assert found.accuracy.value == pytest.approx(right.mean())
    assert found.reference.accuracy.value == pytest.approx(was_right.mean())
    assert found.difference.value == pytest.approx(right.mean() - was_right.mean())
    p, q = (scipy.special.softmax(net(x).detach().double().numpy(), axis=1) for net in (original, network))
    assert found.kl.value == pytest.approx(scipy.stats.entropy(p, q, axis=1).mean(), rel=1e-5)
    assert found.perplexity is None


def test_a_classifier_without_labels_has_a_distortion_alone():
    found = evaluate(Linear(6, 4, 1), examples(y=False), against=Linear(6, 4))
    assert (found.accuracy, found.difference) == (None, None)
    assert found.kl.value > 0


def test_labels_are_those_of_the_network():
    with pytest.raises(UsageError, match="labels go up to"):
        evaluate(Linear(6, 2), examples(classes=4))


def test_a_regression_does_not_depend_on_its_unit():
    data = examples()
    targets = Arrays(data.x, np.zeros((100, 3), np.float32), "t")
    original, network = Linear(6, 3), Linear(6, 3, 1)
    found = evaluate(network, targets, against=original, batch=9)
    a, b = (net(torch.from_numpy(data.x)).detach().numpy() for net in (original, network))
    assert found.kl.value == pytest.approx(((a - b) ** 2).sum(1).mean() / (2 * a.var(0).mean()), rel=1e-4)
    scaled = evaluate(
        lambda x: 1e3 * network(x), examples(y=False), against=lambda x: 1e3 * original(x), law=divergence.gaussian_kl
    )
    assert scaled.kl.value == pytest.approx(found.kl.value, rel=1e-4)
    with pytest.raises(UsageError, match="do not vary"):
        evaluate(network, targets, against=lambda x: torch.zeros(len(x), 3))


def test_an_encoder_averages_over_its_tokens():
    rng = np.random.default_rng(0)
    ids = tuple(rng.integers(0, VOCABULARY, length) for length in rng.integers(1, 9, 70))
    data = Sentences(ids, "", "random sentences")
    tables = [rng.normal(size=(VOCABULARY, 5)).astype(np.float32) for _ in range(2)]

    def encoder(table):
        def network(input_ids, attention_mask):
            return SimpleNamespace(last_hidden_state=torch.from_numpy(table)[input_ids])

        return network

    found = evaluate(encoder(tables[1]), data, against=encoder(tables[0]))
    a, b = (np.stack([table[row].mean(0) for row in ids]) for table in tables)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.kl.value == pytest.approx((1 - cosine).mean(), rel=1e-5)

    def pooled(input_ids, attention_mask):
        return {"sentence_embedding": torch.ones(len(input_ids), 3)}

    assert evaluate(pooled, data, against=pooled).kl.value == pytest.approx(0, abs=1e-6)


def test_an_encoder_on_scored_pairs():
    rng = np.random.default_rng(0)
    sides = [tuple(rng.integers(0, VOCABULARY, length) for length in rng.integers(1, 9, 70)) for _ in range(2)]
    data = Pairs(
        *(Sentences(side, "", "random") for side in sides), rng.integers(0, 6, 70).astype(float), "random pairs"
    )
    tables = [rng.normal(size=(VOCABULARY, 5)).astype(np.float32) for _ in range(2)]

    def encoder(table):
        return lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=torch.from_numpy(table)[input_ids])

    def embedded(table, side):
        found = np.stack([table[row].mean(0) for row in side])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    found = evaluate(encoder(tables[1]), data, against=encoder(tables[0]), batch=9)
    (a, b), (c, d) = ([embedded(table, side) for side in sides] for table in tables)
    rho = scipy.stats.spearmanr((c * d).sum(1), data.scores).statistic
    assert found.spearman.value == pytest.approx(rho)
    assert found.spearman.low < rho < found.spearman.high
    assert found.difference.value == pytest.approx(rho - scipy.stats.spearmanr((a * b).sum(1), data.scores).statistic)
    assert found.kl.value == pytest.approx((1 - ((a * c).sum(1) + (b * d).sum(1)) / 2).mean(), rel=1e-5)


def test_few_blocks_and_half_precision_are_said():
    found = evaluate(Bigram().bfloat16(), blocks(10), against=Bigram())
    assert [warning.split()[0] for warning in found.warnings] == ["the", "a"]
    assert "10 blocks" in found.warnings[0]
    assert "half precision" in found.warnings[1]


def test_what_is_wrong_is_one_line():
    def bad(ids):
        return torch.full((*ids.shape, VOCABULARY), math.nan)

    with pytest.raises(RarefyError, match="not a number: in block 0"):
        evaluate(bad, blocks())
    with pytest.raises(RarefyError, match="not a number: in block 3"):
        evaluate(lambda x: torch.where(torch.arange(len(x))[:, None] == 3, math.nan, 1.0).expand(-1, 4), examples())
    with pytest.raises(UsageError, match="shapes"):
        evaluate(Linear(6, 4), examples(), against=Linear(6, 5))
    with pytest.raises(UsageError, match="must be tokenised"):
        evaluate(Bigram(), Text(("some",), "t"))
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate(Bigram(), blocks(0))
    with pytest.raises(UsageError, match="at least one block"):
        evaluate(Bigram(), blocks(), batch=0)
    with pytest.raises(UsageError, match="not understood"):
        evaluate(lambda ids: "logits", blocks())


def test_what_was_measured_travels_as_json():
    found = evaluate(Bigram(1, 0.3), blocks(1), against=Bigram()).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"blocks", "perplexity", "kl", "difference", "reference", "warnings"}
    assert set(found["reference"]) == {"blocks", "perplexity"}
    assert found["kl"]["low"] is None


@pytest.mark.skipif(not STORIES.exists(), reason="needs ../shared/data/lm/stories260K")
def test_a_real_language_model_scores_as_transformers_says():
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORIES)
    tokens = topics().evaluation.tokens(tokenizer, length=128, limit=8)
    assert (tokens.ids[:, 0] == tokenizer.bos_token_id).all()
    found = evaluate(network, tokens, against=network)
    ids = torch.from_numpy(tokens.ids)
    with torch.no_grad():
        loss = network(input_ids=ids, labels=ids).loss.item()
    assert found.perplexity.value == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.kl.value == 0.0
