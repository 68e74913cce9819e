"""Matrices that lie the other way round, belong to an expert, or have two uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from zoo import ZOO

from rarefy.codes import Dense
from rarefy.codes.transposed import Transposed
from rarefy.evidence import Evidence, Moment, SecondMoment, Site, Visited, walk
from rarefy.evidence.statistics import NEVER, borrowed
from rarefy.families import Segments
from rarefy.model import Model
from rarefy.opening import open_model


def test_gpt2_is_seen_from_its_outputs() -> None:
    """A site of (out, in), and the second moment of the layer's input, though the parameter lies as (in, out)."""
    member, name = ZOO["gpt2"], "transformer.h.0.mlp.c_fc"
    network = member.build()
    found: dict[str, Site] = {}

    def visit(sites: list[Site], _before: object) -> Visited:
        found.update({site.name: site for site in sites})
        return Visited({})

    walk(Model.from_module(network), Evidence(member.inputs()), frozenset({SecondMoment()}), visit, "walk")
    seen: list[torch.Tensor] = []
    network.get_submodule(name).register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
    with torch.no_grad():
        network(torch.from_numpy(member.inputs()))
    x = seen[0].reshape(-1, 32).numpy()
    site = found[f"{name}.weight"]
    weight = network.get_parameter(f"{name}.weight").detach().numpy()
    assert weight.shape == (32, 128)
    np.testing.assert_array_equal(site.weight(), weight.T)
    np.testing.assert_allclose(site.statistics[SecondMoment()].s, x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    stored = site.oriented(Dense.of(site.weight()))
    assert isinstance(stored, Transposed)
    np.testing.assert_array_equal(stored.decode(), weight)
    assert site.oriented(stored).shape == (128, 32)


@pytest.mark.parametrize(
    "name", [name for name in ZOO if ZOO[name].head.endswith(("CausalLM", "HeadModel", "MaskedLM"))]
)
def test_a_tied_head_is_one_site_with_two_uses(name: str) -> None:
    network = ZOO[name].build()
    head, looked_up = network.get_output_embeddings(), network.get_input_embeddings()
    paths = {id(layer): path for path, layer in network.named_modules()}
    uses = {place.modules for found in Segments(Model.from_module(network)).places() for place in found}
    both = (paths[id(looked_up)], paths[id(head)])
    assert (both in uses) == (head.weight is looked_up.weight)


def moment(seed: int, count: int) -> Moment:
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return Moment(x.T @ x / np.float32(count), count)


def test_experts_that_saw_too_little_borrow() -> None:
    often, seldom, other = moment(0, 40), moment(1, 3), moment(2, 50)
    layer = "model.layers.0.mlp.experts"
    seen = {
        f"{layer}.0.w1.weight": often,
        f"{layer}.1.w1.weight": seldom,
        f"{layer}.2.w1.weight": NEVER,
        f"{layer}.2.w2.weight": NEVER,
        "model.layers.1.mlp.experts.0.w1.weight": other,
        "model.layers.0.self_attn.q_proj.weight": moment(3, 2),
    }
    found = borrowed(seen)
    assert found[f"{layer}.0.w1.weight"] is often
    together = (often.s * 40 + seldom.s * 3) / np.float32(43)
    for e in (1, 2):
        np.testing.assert_allclose(found[f"{layer}.{e}.w1.weight"].s, together, rtol=1e-5)
        assert found[f"{layer}.{e}.w1.weight"].count == 43
    unchanged = [name for name in seen if found[name] is seen[name]]
    assert len(unchanged) == len(seen) - 2  # nobody to borrow from, or no expert


def test_experts_are_sites_of_their_own(tmp_path: Path) -> None:
    """As the file has them, each with what the router sends it; routers are no sites."""
    member = ZOO["mixtral"]
    member.build().save_pretrained(tmp_path)
    model = open_model(tmp_path)
    counts: dict[str, int] = {}

    def visit(sites: list[Site], _before: object) -> Visited:
        counts.update({s.name: s.statistics[SecondMoment()].count for s in sites if SecondMoment() in s.statistics})
        return Visited({})

    walk(model, Evidence(member.inputs(40)), frozenset({SecondMoment()}), visit, "walk")
    first = "model.layers.0.block_sparse_moe"
    chosen = [counts[f"{first}.experts.{e}.w1.weight"] for e in range(4)]
    assert min(chosen) >= 32  # so none of them borrows
    assert sum(chosen) == 40 * 12 * 2
    assert chosen == [counts[f"{first}.experts.{e}.w3.weight"] for e in range(4)]
    assert f"{first}.gate.weight" in model.codes
    assert f"{first}.gate.weight" not in counts
