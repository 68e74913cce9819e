"""The survey: curvature segment by segment backwards is that of one backward pass through the whole network."""

import shutil

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from rarefy.errors import UsageError
from rarefy.evidence import Curvature, Evidence, Kronecker, SecondMoment, Visited, survey, walk
from rarefy.evidence.curvature import UNSEEN
from rarefy.evidence.statistics import unfold
from rarefy.families import Segments, family_of
from rarefy.families.values import model_inputs
from rarefy.model import Model

SEED = 3


def surveyed(model: Model, evidence: Evidence, **more) -> dict:
    seen: dict = {}

    def visit(sites, made):
        seen.update({site.name: site for site in sites})
        return Visited({}, {"sites": [site.name for site in sites]})

    survey(model, evidence, visit, "survey", seed=SEED, **more)
    return seen


def signs(j: int, like: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(np.frombuffer(np.random.default_rng((SEED, j)).bytes(like.numel()), np.uint8))
    return torch.from_numpy(bits[: like.numel()] * 2.0 - 1.0).float().reshape(like.shape)


def drawn(net: nn.Module, out, j: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the law is made of, and g, written out."""
    family = family_of(net)
    if family is not None and family.law(net) == "embedding":
        z = out.last_hidden_state
        z = z.mean(1) if z.dim() == 3 else z.mean((2, 3))
        e, length = signs(j, z), z.norm(dim=-1, keepdim=True)
        projector = torch.eye(z.shape[1]) - torch.einsum("bi,bj->bij", z / length, z / length)
        return z, torch.einsum("bij,bj->bi", projector, e) / length
    z = out if isinstance(out, torch.Tensor) else out.logits
    p = z.detach().softmax(-1)
    root = torch.diag_embed(p.sqrt()) - p.unsqueeze(-1) * p.sqrt().unsqueeze(-2)
    return z, (root @ signs(j, z).unsqueeze(-1)).squeeze(-1)


def literal(net: nn.Module, batches: list[torch.Tensor]) -> tuple[dict[str, tuple[np.ndarray, ...]], str]:
    """Path of a layer -> (rows, moment, S), unsmoothed, from the gradient of a zero added to every layer's output; and
    the layer that makes the logits."""
    head = ""
    sums: dict[str, list] = {}
    laws = 0
    for j, batch in enumerate(batches):
        added: list = []

        def hook(path, layer, args, y, added=added):
            zero = torch.zeros_like(y, requires_grad=True)
            y = y + zero
            added.append((path, layer, args[0].detach(), zero, y))
            return y

        kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
        handles = [
            layer.register_forward_hook(lambda *given, path=path, hook=hook: hook(path, *given))
            for path, layer in net.named_modules()
            if isinstance(layer, kinds)
        ]
        args, kwargs = model_inputs(net, batch.clone())
        z, g = drawn(net, net(*args, **kwargs), j)
        laws += z.numel() // z.shape[-1]
        (z * g.detach()).sum().backward()
        for handle in handles:
            handle.remove()
        for path, layer, x, zero, y in added:
            if zero.grad is None:
                continue
            d = (zero.grad.movedim(1, -1) if isinstance(layer, nn.Conv2d) else zero.grad).flatten(0, -2).double()
            if isinstance(layer, nn.Embedding):
                one = nn.functional.one_hot(x.flatten(), layer.num_embeddings).double()
                made = one.sum(0), d.T @ d, len(d)
            else:
                rows = unfold(layer, x).double()
                made = d.square().sum(0), rows.T @ rows, len(rows)
                if z.numel() == len(z) * z.shape[-1] and len(d) > len(z):  # one law for all positions of an example
                    v = torch.einsum("npr,npi->nri", d.unflatten(0, (len(z), -1)), rows.unflatten(0, (len(z), -1)))
                    metric = torch.einsum("nri,nrj->ij", v, v)
                    made = v.square().sum((0, 2)), rows.T @ rows, len(rows), metric
                if y is z:  # exact there
                    head, p = path, z.detach().double().softmax(-1)
                    made = (p * (1 - p)).flatten(0, -2).sum(0), *made[1:]
            before = sums.get(path, (0,) * len(made))
            sums[path] = [a + b for a, b in zip(before, made, strict=True)]
    found = {}
    for path, (r, s, n, *metric) in sums.items():
        trace = (s / n).trace()
        rows = r / laws / trace if metric else r / laws
        weighed = metric[0] * trace / metric[0].trace() if metric else s / n
        found[path] = rows.detach().numpy(), weighed.detach().numpy(), (s / n).detach().numpy()
    return found, head


def check(found: Kronecker, rows: np.ndarray, moment: np.ndarray, share: float = 0.0) -> None:
    rows = (1 - share) * rows + share * rows.mean()
    np.testing.assert_allclose(found.rows, rows, rtol=2e-4, atol=2e-5 * rows.max())
    np.testing.assert_allclose(found.moment.s, moment, rtol=2e-4, atol=2e-5 * np.abs(moment).max())
    assert found.rows.dtype == found.moment.s.dtype == np.float32


@pytest.fixture
def small_batches(monkeypatch) -> None:
    """Three micro-batches of two examples."""
    monkeypatch.setattr("rarefy.evidence.evidence.TOKENS_PER_BATCH", 4 * 24)
    monkeypatch.setattr("rarefy.evidence.evidence.IMAGES_PER_BATCH", 4 * 2)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("name", [*tiny.NETWORKS, "t5", "skipping", "between", "pair"])
def test_curvature_is_that_of_the_whole_network(name: str) -> None:
    net = tiny.build(name)
    model = Model.from_module(net)
    sites = surveyed(model, tiny.evidence(name))
    expected, head = literal(net, list(torch.from_numpy(tiny.inputs(name)).split(2)))
    places = {place.parameter: place for found in Segments(model).places() for place in found}
    assert set(sites) == set(places)
    for key, site in sites.items():
        reached = [path for path in places[key].modules if path in expected]
        if not reached:
            assert site.obstacles[Curvature()] == "no gradient of the output reaches it"
            continue
        uses = site.statistics[Curvature()]
        assert len(uses) == len(reached)
        for use, path in zip(uses, reached, strict=True):
            rows, moment, s = expected[path]
            if use.kind == "embedding":
                counts = rows * use.count / rows.sum()
                check(use, rows, moment, max(UNSEEN, np.count_nonzero(counts.round() == 1) / use.count))
            elif name == "chain" and path == "5":  # a block: what comes out is not known to be the logits
                assert np.abs(use.rows / rows - 1).max() < 1
            else:
                check(use, rows, moment, UNSEEN if path == head else 0.0)
            if use.kind != "embedding":
                own = site.statistics[SecondMoment()].s
                np.testing.assert_allclose(own, s, rtol=2e-4, atol=2e-5 * np.abs(s).max())


@pytest.mark.parametrize("dies", ["0000", "0001", "0002", "0003"])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", ["llama_tied", "bert", "t5"])
def test_a_survey_begun_again_sees_the_same(name: str, dies: str, lost: bool) -> None:
    model = tiny.opened(name)
    whole = surveyed(model, tiny.evidence(name))
    journal = tiny.Memory(dies)
    with pytest.raises(KeyboardInterrupt):
        surveyed(model, tiny.evidence(name, journal=journal))
    done, journal.dies = dict(journal.steps), ""
    assert len(done) == len(Segments(model)) - 1 - int(dies)
    if lost:
        shutil.rmtree(journal.scratch(""))
    again = surveyed(model, tiny.evidence(name, journal=journal))
    visited = {site for made in done.values() for site in made.notes["sites"]}
    assert set(again) == set(whole) - visited
    for key, site in again.items():
        same(site, whole[key])
    assert not list(journal.scratch("").rglob("*.npy"))
    assert surveyed(model, tiny.evidence(name, journal=journal)) == {}


def same(one, other) -> None:
    assert one.obstacles == other.obstacles
    for use, its in zip(one.statistics.get(Curvature(), ()), other.statistics.get(Curvature(), ()), strict=True):
        np.testing.assert_array_equal(use.rows, its.rows)
        np.testing.assert_array_equal(use.moment.s, its.moment.s)


def test_the_last_segment_comes_first_and_a_tied_matrix_with_the_segment_that_looks_it_up() -> None:
    journal = tiny.Memory()
    seen = surveyed(tiny.opened("llama_tied"), tiny.evidence("llama_tied", journal=journal))
    assert list(dict.fromkeys(site.segment for site in seen.values())) == ["model.layers.1", "model.layers.0", "input"]
    assert list(journal.steps) == [f"survey-000{i}" for i in (3, 2, 1, 0)]
    lookup, head = seen["model.embed_tokens.weight"].statistics[Curvature()]
    assert (lookup.kind, head.kind) == ("embedding", "linear")
    assert lookup.rows.shape == head.rows.shape == (tiny.VOCABULARY,)
    assert lookup.count == head.count == 6 * 12
    assert seen["model.embed_tokens.weight"].statistics[SecondMoment()] is head.moment


@pytest.mark.parametrize("kind", ["linear", "convolution", "embedding", "head"])
def test_predicted_nats_are_those_measured(kind: str) -> None:
    """Of small random changes, for each approximation that `curvature.py` names: positions and inputs beside gradients
    taken as uncorrelated (linear, embedding), inputs beside gradients alone (head), neither (convolution)."""
    name, parameter, factor = {
        "linear": ("llama", "model.layers.0.mlp.up_proj.weight", 1.5),
        "convolution": ("torch_resnet", "layer1.1.conv2.weight", 1.5),
        "embedding": ("llama", "model.embed_tokens.weight", 1.5),
        "head": ("llama", "lm_head.weight", 1.3),
    }[kind]
    evidence = tiny.evidence(name, 64)
    net = tiny.build(name)
    (use,) = surveyed(Model.from_module(net), evidence)[parameter].statistics[Curvature()]
    net, random = net.double(), np.random.default_rng(0)
    weight = net.get_parameter(parameter)
    args, kwargs = model_inputs(net, torch.from_numpy(tiny.inputs(name, 64)))
    args = tuple(x.double() for x in args)
    measured = []
    with torch.no_grad():
        before = logits(net(*args, **kwargs))
        for _ in range(8):
            error = random.normal(size=use.rows.shape + use.moment.s.shape[:1]).astype(np.float32)
            error *= np.sqrt(1e-6 / use.nats(error))
            weight += torch.from_numpy(error).reshape(weight.shape)
            measured.append(float(softmax_kl64(before, logits(net(*args, **kwargs)))))
            weight -= torch.from_numpy(error).reshape(weight.shape)
    assert 1 / factor < np.mean(measured) / 1e-6 < factor


def logits(out) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out.logits


def softmax_kl64(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def test_a_frozen_embedding_is_surveyed_and_what_is_no_parameter_is_absent() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Embedding.from_pretrained(torch.randn(64, 8), freeze=True)
            self.register_buffer("table", torch.randn(64, 8))
            self.out = nn.Linear(8, 5)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out((self.frozen(ids) + self.table[ids]).mean(1))

    torch.manual_seed(0)
    seen = surveyed(Model.from_module(Looked().eval()), tiny.evidence("llama"))
    assert set(seen) == {"frozen.weight", "out.weight"}
    (use,) = seen["frozen.weight"].statistics[Curvature()]
    # A law an example here, twelve lookups for each.
    assert use.rows.sum() == pytest.approx(12) and use.count == 72
    assert use.rows.min() > 0 and use.moment.s.shape == (8, 8)


def test_a_network_without_an_embedding_and_one_that_begins_with_one_as_a_block() -> None:
    assert {s.kind for s in surveyed(tiny.opened("chain"), tiny.evidence("chain")).values()} == {"linear"}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(64, 20), nn.Linear(20, 20), nn.ReLU(inplace=True), nn.Linear(20, 5)).eval()
    seen = surveyed(Model.from_module(net), Evidence(tiny.inputs("llama")))
    assert [site.statistics[Curvature()][0].kind for site in seen.values()] == ["linear", "linear", "embedding"]


def test_the_law_can_be_told() -> None:
    softmax, gaussian = (
        surveyed(tiny.opened("skipping"), tiny.evidence("skipping"), law=law)["out.weight"].statistics[Curvature()][0]
        for law in ("softmax", "gaussian")
    )
    np.testing.assert_allclose(gaussian.rows, 1.0, rtol=1e-6)
    assert softmax.rows.max() < 0.25 + 1e-6
    np.testing.assert_array_equal(softmax.moment.s, gaussian.moment.s)


def test_bfloat16_is_near_float32_and_seeds_matter() -> None:
    model = tiny.opened("llama_tied")
    exact, half = (surveyed(model, tiny.evidence("llama_tied", 32, dtype=d)) for d in ("float32", "bfloat16"))
    for key, site in exact.items():
        for use, its in zip(site.statistics[Curvature()], half[key].statistics[Curvature()], strict=True):
            assert its.rows.dtype == its.moment.s.dtype == np.float32
            np.testing.assert_allclose(its.rows.sum(), use.rows.sum(), rtol=0.05)
            np.testing.assert_allclose(np.trace(its.moment.s), np.trace(use.moment.s), rtol=0.05)


def test_what_cannot_be_surveyed_says_why() -> None:
    seen = surveyed(tiny.opened("strange"), tiny.evidence("strange"))
    assert {key: site.obstacles.get(Curvature()) for key, site in seen.items()} == {
        "grouped.weight": "a grouped convolution has no single second moment",
        "unused.weight": "no gradient of the output reaches it",
        "head.weight": None,
    }
    with pytest.raises(UsageError, match="needs calibration data"):
        surveyed(tiny.opened("chain"), Evidence())


def test_a_walk_refuses_what_it_does_not_gather() -> None:
    with pytest.raises(ValueError, match="a walk gathers no curvature"):
        walk(tiny.opened("chain"), tiny.evidence("chain"), frozenset({Curvature()}), lambda sites: Visited({}), "walk")
