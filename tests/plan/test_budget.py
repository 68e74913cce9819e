"""Budgets: sizes as people write them, and the recipe that is held to one."""

import pytest
import tiny

from rarefy.errors import UsageError
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.entropy import Entropy
from rarefy.methods.quantize.entropy_aware import EntropyAware
from rarefy.methods.quantize.rtn import RTN
from rarefy.plan.budget import Budget, budget, held, parse_size, stepped
from rarefy.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "size"),
    [("60MB", 60_000_000), ("1.5 gb", 1_500_000_000), (".5KB", 500), ("1234", 1234), ("7 B", 7)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "3 MiB", "1e6", "nan", "60MBs", "6 0MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def test_a_budget_in_each_way() -> None:
    text, images = tiny.opened("llama"), tiny.opened("resnet")
    assert budget(text) is None
    assert budget(text, size="2KB") == budget(text, size=2000) == Budget(size=2000)
    assert budget(text, bpw=3.0) == Budget(size=int(3 * text.weights / 8))
    assert budget(text, ratio=4.0) == Budget(size=int(2 * text.weights / 4))
    assert budget(images, ratio=4.0) == Budget(size=images.weights)
    assert budget(text, max_kl=0.1) == Budget(max_kl=0.1)


@pytest.mark.parametrize(
    "given", [{"size": 0}, {"bpw": 0.0}, {"bpw": float("nan")}, {"bpw": float("inf")}, {"ratio": 0.0}, {"ratio": -1.0}]
)
def test_a_budget_of_nothing_is_refused(given: dict) -> None:
    with pytest.raises(UsageError, match="leaves no byte"):
        budget(tiny.opened("llama"), **given)


@pytest.mark.parametrize("nats", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_divergence_is_refused(nats: float) -> None:
    with pytest.raises(UsageError, match="no divergence to keep to"):
        budget(tiny.opened("llama"), max_kl=nats)


def test_two_budgets_are_refused() -> None:
    with pytest.raises(UsageError, match="size and ratio are both given"):
        budget(tiny.opened("llama"), size="1KB", ratio=2.0)
    with pytest.raises(UsageError, match="bpw and max_kl are both given"):
        budget(tiny.opened("llama"), bpw=3.0, max_kl=0.1)


def test_the_one_able_method_is_held() -> None:
    recipe = Recipe((Recipe((Magnitude(),)), Entropy(damping=0.02)), "rans")
    assert held(recipe, Budget(size=500)) == Recipe((Magnitude(), Entropy(size=500, damping=0.02)), "rans")


def test_a_method_that_trains_keeps_a_size_and_no_divergence() -> None:
    recipe = Recipe((Magnitude(), EntropyAware(levels=3)))
    assert held(recipe, Budget(size=500)) == Recipe((Magnitude(), EntropyAware(levels=3, size=500)))
    with pytest.raises(UsageError, match="no method to hold to a budget"):
        held(recipe, Budget(max_kl=0.1))


def test_a_step_takes_the_place_of_a_budget() -> None:
    recipe = Recipe((Magnitude(), Entropy(size=500)), "rans")
    assert stepped(recipe, 0.25) == Recipe((Magnitude(), Entropy(step=0.25)), "rans")
    assert held(stepped(recipe, 0.25), Budget(size=500)) == recipe


@pytest.mark.parametrize("methods", [(RTN(),), (Entropy(), Entropy())])
def test_none_or_two_able_methods_are_refused(methods: tuple) -> None:
    with pytest.raises(UsageError, match="to hold to a budget"):
        held(Recipe(methods), Budget(size=500))
