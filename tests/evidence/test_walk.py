"""The walk: statistics are those of the network itself, drifted by what was coded, one segment in memory at a time."""

import dataclasses
import gc
import shutil
import weakref

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from rarefy.codes import Dense
from rarefy.errors import RarefyError, UsageError
from rarefy.evidence import Evidence, SecondMoment, Visited, walk
from rarefy.evidence.statistics import unfold
from rarefy.families.values import model_inputs
from rarefy.joint import apply_jointly
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN
from rarefy.model import LazyCodes, Model, decoded

NEEDS = frozenset({SecondMoment()})


def visit_nothing(seen: dict):
    def visit(sites, made):
        seen.update({site.name: site for site in sites})
        return Visited({})

    return visit


def plain(net: nn.Module, batch: torch.Tensor) -> dict[str, np.ndarray]:
    """Second moments by hooks on the whole network, in float64: parameter -> S."""
    rows: dict[str, list[torch.Tensor]] = {}

    def hook(path: str):
        return lambda layer, args: rows.setdefault(f"{path}.weight", []).append(unfold(layer, args[0]).double())

    handles = [
        layer.register_forward_pre_hook(hook(path))
        for path, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    args, kwargs = model_inputs(net, batch)
    with torch.no_grad():
        net(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return {name: (x.T @ x / len(x)).numpy() for name, parts in rows.items() for x in [torch.cat(parts)]}


@pytest.mark.parametrize("name", [*tiny.NETWORKS, *tiny.TWO_STACKS])
def test_second_moments_are_those_of_the_whole_network(name: str, monkeypatch) -> None:
    monkeypatch.setattr("rarefy.evidence.evidence.TOKENS_PER_BATCH", 24)
    monkeypatch.setattr("rarefy.evidence.evidence.IMAGES_PER_BATCH", 4)
    net = tiny.build(name)
    seen: dict = {}
    walk(Model.from_module(net), tiny.evidence(name), NEEDS, visit_nothing(seen), "walk")
    expected = plain(net, torch.from_numpy(tiny.inputs(name)))
    for key, site in seen.items():
        if site.kind == "embedding":
            assert SecondMoment() in site.obstacles
            continue
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(site.statistics[SecondMoment()].s, expected[key], rtol=1e-5, atol=1e-5 * scale)
    assert {key for key, site in seen.items() if site.statistics} == set(expected) & set(seen)


@pytest.mark.parametrize("name", ["llama_tied", "bert", "t5", "torch_resnet", "chain"])
def test_statistics_are_of_inputs_from_coded_segments(name: str) -> None:
    """Those of segment k are what the whole network gives when all segments before it are coded, and it is not."""
    model = tiny.opened(name)
    methods = [RTN(bits=3, group=0)]
    seen: dict = {}

    def visit(sites, made):
        seen.update({site.name: site for site in sites})
        return Visited({site.name: methods[0].encode(site) for site in sites if not methods[0].declines(site)})

    made = walk(model, tiny.evidence(name), NEEDS, visit, "walk")
    batch = torch.from_numpy(tiny.inputs(name))
    before = model
    labels = list(dict.fromkeys(site.segment for site in seen.values()))
    changed = 0
    for label in labels:
        drifted, fresh = plain(before.module(), batch), plain(model.module(), batch)
        for key, site in seen.items():
            if site.segment == label and site.statistics:
                s = site.statistics[SecondMoment()].s
                np.testing.assert_allclose(s, drifted[key], rtol=1e-4, atol=1e-4 * np.abs(s).max())
                changed += not np.allclose(s, fresh[key], rtol=1e-4, atol=1e-4 * np.abs(s).max())
        codes = {key: code for visited in made for key, code in visited.codes.items() if seen[key].segment == label}
        before = dataclasses.replace(before, codes={**before.codes, **codes})
    assert changed >= 2


def test_one_segment_of_decoded_weights_is_held_at_a_time(monkeypatch) -> None:
    alive: dict[int, str] = {}
    most: set[str] = set()

    def watched(code, device, dtype):
        tensor = decoded(code, device, dtype)
        alive[id(tensor)] = str(tuple(tensor.shape))
        weakref.finalize(tensor, alive.pop, id(tensor))
        most.update({str(len(alive))})
        return tensor

    monkeypatch.setattr("rarefy.model.decoded", watched)
    net = nn.Sequential(*(nn.Linear(20, 20) for _ in range(12))).eval()
    gc.disable()
    try:
        apply_jointly([GPTQ(bits=4, group=0)], Model.from_module(net), Evidence(tiny.inputs("chain")))
    finally:
        gc.enable()
    assert max(map(int, most)) <= 2  # a weight and a bias, not twenty-four
    assert not alive


def test_codes_of_a_file_are_read_when_their_segment_comes() -> None:
    model = tiny.opened("chain")
    read: list[str] = []
    codes = LazyCodes(lambda k: (read.append(k), model.codes[k])[1], {k: model.codes[k].shape for k in model.codes})
    lazy = dataclasses.replace(model, codes=codes)
    order: list[tuple[str, set[str]]] = []

    def visit(sites, made):
        order.append((sites[0].segment if sites else "", set(read)))
        return Visited({})

    walk(lazy, tiny.evidence("chain"), NEEDS, visit, "walk")
    assert order[1] == ("0", {"0.weight", "0.bias"})
    assert "5.weight" not in order[3][1]


@pytest.mark.parametrize("dies", ["0000", "0001", "0002", "0003"])
def test_a_walk_begun_again_makes_the_same(dies: str) -> None:
    model = tiny.opened("llama")
    whole = apply_jointly([GPTQ(bits=3)], model, tiny.evidence("llama"))
    journal = tiny.Memory(dies)
    with pytest.raises(KeyboardInterrupt):
        apply_jointly([GPTQ(bits=3)], model, tiny.evidence("llama", journal=journal))
    journal.dies = ""
    assert len(journal.steps) == int(dies)
    again = apply_jointly([GPTQ(bits=3)], model, tiny.evidence("llama", journal=journal))
    assert same(whole, again) and whole.history == again.history


@pytest.mark.parametrize(("name", "dies"), [("llama", "0002"), ("t5", "0003"), ("t5", "0005")])
def test_lost_activations_are_made_again(name: str, dies: str) -> None:
    model = tiny.opened(name)
    whole = apply_jointly([GPTQ(bits=3)], model, tiny.evidence(name))
    journal = tiny.Memory(dies)
    with pytest.raises(KeyboardInterrupt):
        apply_jointly([GPTQ(bits=3)], model, tiny.evidence(name, journal=journal))
    journal.dies = ""
    shutil.rmtree(journal.scratch("").parent / journal.scratch("").name)
    assert same(whole, apply_jointly([GPTQ(bits=3)], model, tiny.evidence(name, journal=journal)))


def same(one: Model, other: Model) -> bool:
    return all(np.array_equal(one.codes[key].decode(), other.codes[key].decode()) for key in one.codes)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("skipping", "what comes after its blocks takes more than the last one's output"),
        ("between", "its blocks do not feed one another"),
        ("pair", "1 returns a tuple, not a tensor"),
        ("strange", "no family knows Strange"),
    ],
)
def test_what_is_no_chain_is_one_segment_says_so_and_works(name: str, why: str) -> None:
    net = tiny.build(name)
    evidence = tiny.evidence(name)
    made = apply_jointly([GPTQ(bits=8, group=0)], Model.from_module(net), evidence)
    assert evidence.progress.notes == [f"one segment, held in memory whole: {why}"]
    x = torch.from_numpy(tiny.inputs(name))
    with torch.no_grad():
        np.testing.assert_allclose(made.module()(x), net(x), atol=0.1)
    seen: dict = {}
    walk(Model.from_module(net), tiny.evidence(name), NEEDS, visit_nothing(seen), "walk")
    expected = plain(net, x)
    for key, site in seen.items():
        if site.statistics:
            np.testing.assert_allclose(site.statistics[SecondMoment()].s, expected[key], rtol=1e-4, atol=1e-5)
    assert any(site.statistics for site in seen.values())


def test_what_is_not_understood_is_named() -> None:
    made = apply_jointly([GPTQ(bits=4)], tiny.opened("strange"), tiny.evidence("strange"))
    assert made.history[0].untouched == {
        "grouped.weight": "a grouped convolution has no single second moment",
        "unused.weight": "calibration never reached it",
    }
    assert set(made.history[0].damage) == {"head.weight"}
    for key in ("mix", "lstm.weight_ih_l0", "grouped.weight"):
        assert isinstance(made.codes[key], Dense)


def test_bfloat16_walks_with_integer_inputs_between_segments() -> None:
    net = nn.Sequential(nn.Embedding(64, 20), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 5)).eval()
    made = apply_jointly([GPTQ(bits=8)], Model.from_module(net), Evidence(tiny.inputs("llama"), dtype="bfloat16"))
    x = torch.from_numpy(tiny.inputs("llama"))
    np.testing.assert_allclose(made.module()(x).detach(), net(x).detach(), atol=0.05)


def test_inputs_changed_in_place_stay_what_they_were() -> None:
    class InPlace(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(2))

    net = InPlace(nn.Linear(20, 20), nn.Linear(20, 5)).eval()
    inputs = tiny.inputs("chain")
    seen: dict = {}
    walk(Model.from_module(net), Evidence(inputs), NEEDS, visit_nothing(seen), "walk")
    np.testing.assert_array_equal(inputs, tiny.inputs("chain"))
    expected = plain(net, torch.from_numpy(tiny.inputs("chain")))
    np.testing.assert_allclose(seen["1.weight"].statistics[SecondMoment()].s, expected["1.weight"], rtol=1e-4)


def test_data_that_are_missing_or_of_an_unknown_type_are_one_line() -> None:
    with pytest.raises(UsageError, match="needs calibration data.*give them with --data"):
        apply_jointly([GPTQ()], tiny.opened("chain"), Evidence())
    with pytest.raises(UsageError, match="dtype 'float16' is not known; use float32 or bfloat16"):
        apply_jointly([GPTQ()], tiny.opened("chain"), tiny.evidence("chain", dtype="float16"))


def test_activations_that_overflow_are_refused_by_name() -> None:
    net = tiny.build("chain")
    with torch.no_grad():
        net[0].weight[0, 0] = 3e38
    with pytest.raises(RarefyError, match="what flows into 2.weight is not finite: an activation overflowed"):
        apply_jointly([GPTQ(exclude=("0.*",))], Model.from_module(net), tiny.evidence("chain"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", [RTN(), GPTQ()])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, method) -> None:
    net = tiny.build("chain")
    with torch.no_grad():
        net[5].weight[1, 1] = value
    with pytest.raises(RarefyError, match=r"5.weight has infinite or NaN weights; .*--exclude '5.weight'"):
        apply_jointly([method], Model.from_module(net), tiny.evidence("chain"))
    method = dataclasses.replace(method, exclude=("5.weight",))
    made = apply_jointly([method], Model.from_module(net), tiny.evidence("chain"))
    assert made.history[0].untouched["5.weight"] == "excluded"
