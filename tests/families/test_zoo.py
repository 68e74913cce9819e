"""Networks as people have them, saved by transformers: opened, cut, compressed, opened again, and what stays dense."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo import ZOO, Member, table

import rarefy
from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.families import Segments, outside
from rarefy.families.values import model_inputs
from rarefy.model import Model
from rarefy.opening import open_model
from rarefy.recipe import Recipe

every = pytest.mark.parametrize("name", ZOO)
runs = pytest.mark.parametrize("name", [name for name, member in ZOO.items() if not member.refused])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint as transformers writes it, under the names that it gives its tensors in files."""

    @functools.cache
    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "network"
        ZOO[name].build().save_pretrained(folder)
        return folder

    return save


def answers(module: torch.nn.Module, member: Member) -> torch.Tensor:
    """All floating outputs of the network, in one row."""
    args, kwargs = model_inputs(module, torch.from_numpy(member.inputs()))
    with torch.no_grad():
        found = module(*args, **kwargs)
    return torch.cat([v.flatten() for v in found.values() if isinstance(v, torch.Tensor) and v.is_floating_point()])


def chained(model: Model, segments: Segments, given: object) -> object:
    """The output, each segment with nothing but its own tensors."""
    tensors = [model.tensors(segments.tensor_names(i)) for i in range(len(segments))]
    if not segments.blocks:
        return segments.whole(tensors[0], given)
    value, calls = segments.head(tensors[0], given)
    for i in range(1, len(segments)):
        value = segments.run(i, tensors[i], given, value, calls, check=True)
    return value


@runs
@torch.no_grad()
def test_segments_make_the_networks_output(name: str, saved: Callable[[str], Path]) -> None:
    member, model = ZOO[name], open_model(saved(name))
    segments = Segments(model)
    given = model_inputs(segments.module, torch.from_numpy(member.inputs()))
    segments.probe(model.tensors(segments.tensor_names(len(segments) - 1)), given)
    assert len(segments.blocks) == member.blocks, segments.reason
    assert bool(segments.reason) == (not member.blocks)
    found, network = chained(model, segments, given), type(member.build()).from_pretrained(saved(name))
    expected = network(*given[0], **given[1])
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[key], value, rtol=member.tolerance, atol=member.tolerance)


@every
@pytest.mark.parametrize("method", ["quantize.rtn:bits=4", "quantize.gptq:bits=4", "quantize.entropy:bits=3"])
def test_compressed_and_opened_again_it_is_what_was_made(
    name: str, method: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    member = ZOO[name]
    np.savez(tmp_path / "data.npz", x=member.inputs())
    out = tmp_path / "out"
    law = member.no_law if method.startswith("quantize.entropy") else ""
    refusal = law or (member.refused if not method.startswith("quantize.rtn") else "")
    if refusal:
        with pytest.raises(UsageError, match=refusal):
            rarefy.compress(saved(name), out, [method], data=[tmp_path / "data.npz"], threads=1)
        return
    rarefy.compress(saved(name), out, [method], data=[tmp_path / "data.npz"], threads=1)
    made = rarefy.open(out)
    left = made.history[-1].untouched
    assert {key: reason for key, reason in left.items() if "an embedding; name it" not in reason} == member.left(method)
    if member.refused:
        return
    here = answers(made.module(), member)
    there = answers(type(member.build()).from_pretrained(out), member)
    torch.testing.assert_close(there, here, rtol=member.tolerance, atol=member.tolerance)
    if not method.startswith("quantize.entropy"):  # which spends by what the file takes
        again = Recipe.from_arguments([method]).apply(open_model(saved(name)), Evidence(member.inputs()))
        assert torch.equal(answers(again.module(), member), here)


@every
def test_every_matrix_is_a_site_or_named(name: str, saved: Callable[[str], Path]) -> None:
    model = open_model(saved(name))
    segments = Segments(model)
    places = [place for found in segments.places() for place in found]
    unknown = outside(segments.module, segments.ties)
    matrices = {name for name, parameter in segments.module.named_parameters() if parameter.dim() >= 2}
    assert {place.parameter for place in places} | set(unknown) == matrices
    assert len({place.parameter for place in places}) == len(places)
    assert set(unknown.values()) == set(ZOO[name].unknown)


def test_the_guide_says_what_is_tested() -> None:
    guide = Path(__file__).parents[2] / "docs/guides/families.md"
    assert table() in guide.read_text()
