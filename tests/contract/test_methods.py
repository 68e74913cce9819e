"""What every method must do, whichever it is: found by its file, settings to TOML and back, a model in, a model out."""

import dataclasses
import inspect

import numpy as np
import pytest
import tiny

from rarefy import methods
from rarefy.codes import Code, Sparse
from rarefy.codes.factored import Factored
from rarefy.errors import UsageError
from rarefy.joint import apply_jointly
from rarefy.method import Method, PerTensor
from rarefy.recipe import Recipe, make
from rarefy.settings import describe, fields

NAMES = methods.names()


@pytest.fixture(params=NAMES)
def method(request) -> Method:
    return make(request.param, {})


def raw(model) -> dict[str, tuple]:
    return {key: (code.node(), *(s.symbols.tobytes() for s in code.streams())) for key, code in model.codes.items()}


def other_values(method: Method) -> dict[str, object]:
    """Another legal value for each setting that has one to itself."""
    values: dict[str, object] = {}
    for name, (field, kind) in fields(type(method)).items():
        value, choices = getattr(method, name), field.metadata.get("choices")
        if choices:
            values[name] = choices[-1]
        elif kind is bool:
            values[name] = not value
        elif kind in (int, float):
            values[name] = kind(field.metadata.get("high", 3))
        elif kind == tuple[str, ...]:
            values[name] = ('a, "b"', "*.[qk]_proj.*", "back\\slash", "tab\tline\n\x7f")
    return values


def test_the_three_of_the_first_release_are_there() -> None:
    assert {"quantize.rtn", "quantize.gptq", "prune.magnitude"} <= set(NAMES) and sorted(NAMES) == NAMES


def test_it_is_frozen_and_says_what_its_settings_are(method: Method) -> None:
    assert dataclasses.is_dataclass(method) and inspect.getdoc(type(method))
    assert method == make(method.name(), {}) and hash(method) == hash(make(method.name(), {}))
    for name, (field, kind) in fields(type(method)).items():
        assert field.metadata["help"] and describe(kind)
        assert field.default is not dataclasses.MISSING, f"{name} has no default"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, name, getattr(method, name))


def test_settings_come_back_from_toml(method: Method) -> None:
    assert Recipe.from_toml(Recipe((method,)).to_toml()) == Recipe((method,))
    for name, value in other_values(method).items():
        try:
            changed = dataclasses.replace(method, **{name: value})
        except UsageError:  # not alone, such as n without m
            continue
        assert Recipe.from_toml(Recipe((changed,)).to_toml()) == Recipe((changed,))


def test_settings_are_checked_when_it_is_made(method: Method) -> None:
    for name, (field, kind) in fields(type(method)).items():
        with pytest.raises(UsageError, match=f"{method.name()}: {name}="):
            dataclasses.replace(method, **{name: object()})
        for bound, step in (("low", -1), ("high", 1)):
            if field.metadata.get(bound) is not None:
                with pytest.raises(UsageError, match=f"{name}=.*it must be at (least|most)"):
                    dataclasses.replace(method, **{name: kind(field.metadata[bound] + step)})
        if kind is float:
            with pytest.raises(UsageError, match="it must be finite"):
                dataclasses.replace(method, **{name: float("nan")})


def test_unknown_settings_are_named_with_the_nearest(method: Method) -> None:
    nearest = next(iter(reversed(fields(type(method)))))
    with pytest.raises(UsageError, match=f"{method.name()} has no setting '{nearest}s'; did you mean {nearest}"):
        make(method.name(), {f"{nearest}s": "x"})


@pytest.mark.parametrize("name", ["llama_tied", "resnet", "chain"])
def test_it_leaves_its_input_alone_and_makes_the_same_twice(method: Method, name: str) -> None:
    model = tiny.opened(name)
    before = raw(model)
    made = method.apply(model, tiny.evidence(name), seed=3)
    assert raw(model) == before and model.history == ()
    assert raw(method.apply(model, tiny.evidence(name), seed=3)) == raw(made)
    assert set(made.codes) == set(model.codes)
    assert made.history[0].method == method.name() and made.history[0].settings == method.settings()
    untouched = set(made.codes) - set(made.history[0].damage)
    assert all(made.codes[key] is model.codes[key] or raw(made)[key] == before[key] for key in untouched)
    assert made.history[0].damage and all(np.isfinite(list(made.history[0].damage.values())))


def test_every_pair_keeps_the_rate(method: Method) -> None:
    """No method makes what another made larger by more than a hundredth, unless it codes it anew.

    The tables of tiny streams aside, and supports beside factors, which have no weights to leave out.
    """
    model = tiny.opened("chain")
    if not isinstance(method, PerTensor):
        pytest.skip("codes no single tensor")
    for other in (make(name, {}) for name in NAMES):
        first = other.apply(model, tiny.evidence("chain"))
        both = method.apply(first, tiny.evidence("chain"))
        alone = method.apply(model, tiny.evidence("chain"))
        sparse = [code for code in both.codes.values() if isinstance(code, Sparse)]
        beside = sum(next(code.streams()).bits() for code in sparse if isinstance(code.inner, Factored))
        assert both.bits() - beside <= 1.01 * max(first.bits(), alone.bits()) + 8 * 16


def test_what_is_excluded_stays_and_is_named(method: Method) -> None:
    if not isinstance(method, PerTensor):
        pytest.skip("codes no single tensor")
    model = tiny.opened("chain")
    made = apply_jointly([dataclasses.replace(method, exclude=("0.*", "5.*"))], model, tiny.evidence("chain"))
    assert set(made.history[0].damage) == {"2.weight"}
    assert made.history[0].untouched == {"0.weight": "excluded", "5.weight": "excluded"}
    only = apply_jointly([dataclasses.replace(method, include=("0.weight",))], model, tiny.evidence("chain"))
    assert set(only.history[0].damage) == {"0.weight"}
    assert all(isinstance(code, Code) for code in only.codes.values())
