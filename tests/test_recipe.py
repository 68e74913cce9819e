"""Recipes: a tuple of methods, TOML in and out, words in."""

import sys

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rarefy.errors import UsageError
from rarefy.evidence import SecondMoment
from rarefy.methods import find
from rarefy.methods.prune.magnitude import Magnitude
from rarefy.methods.quantize.gptq import GPTQ
from rarefy.methods.quantize.rtn import RTN
from rarefy.recipe import Recipe

EXAMPLE = """
[[method]]
name = "prune.magnitude"
sparsity = 0.3

[[method]]
name = "quantize.gptq"
bits = 3
exclude = ["*.head.*"]
"""


def test_from_toml_and_from_words() -> None:
    expected = Recipe((Magnitude(0.3), GPTQ(bits=3, exclude=("*.head.*",))))
    assert Recipe.from_toml(EXAMPLE) == expected
    assert Recipe.from_arguments(["prune.magnitude:sparsity=0.3", "quantize.gptq:bits=3,exclude=*.head.*"]) == expected
    assert Recipe.from_arguments(["quantize.rtn"]) == Recipe((RTN(),))


@given(
    st.builds(RTN, bits=st.integers(2, 8), symmetric=st.booleans(), include=st.lists(st.text(max_size=9)).map(tuple)),
    st.builds(GPTQ, damping=st.floats(0, 10), exclude=st.lists(st.text(max_size=9)).map(tuple)),
    st.builds(Magnitude, sparsity=st.floats(0, 1)),
)
def test_toml_comes_back_equal(rtn: RTN, gptq: GPTQ, magnitude: Magnitude) -> None:
    methods = (rtn, gptq, magnitude)
    try:
        Recipe(methods).to_toml().encode()
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    for coder in (None, "huffman", "archive"):
        assert Recipe.from_toml(Recipe(methods, coder).to_toml()) == Recipe(methods, coder)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = [", "r is not TOML"),
        ("", r"r must hold \[\[method\]\] tables, and may name a coder: it has none"),
        ("method = []", "it has none"),
        ("method = 3", "it has none"),
        ("x = 1\n[[method]]\nname = 'quantize.rtn'", "it has 'x'"),
        ("coder = 3\n[[method]]\nname = 'quantize.rtn'", 'r: coder must be text; write coder = "archive"'),
        ("coder = 'morse'\n[[method]]\nname = 'quantize.rtn'", "no coder is called 'morse'; choose one of raw, rans"),
        ("[[method]]\nbits = 4", 'r: method 1 has no name; write name = "quantize.gptq"'),
        ("[[method]]\nname = 4", "r: method 1 has no name"),
        ("method = [3]", "r: method 1 has no name"),
        ("[[method]]\nname = 'quantize.rnt'", "no method is called 'quantize.rnt'; did you mean quantize.rtn?"),
        ("[[method]]\nname = 'quantize.rtn'\nbits = 'x'", "quantize.rtn: bits='x': it must be an integer"),
        ("[[method]]\nname = 'quantize.rtn'\nbits = {}", "bits={}: it must be an integer"),
    ],
)
def test_what_is_no_recipe_is_one_line(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        Recipe.from_toml(text, "r")


def test_files_that_cannot_be_read(tmp_path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError, match="cannot read the recipe"):
            Recipe.read(path)
    (tmp_path / "r.toml").write_text(EXAMPLE)
    assert Recipe.read(tmp_path / "r.toml") == Recipe.from_toml(EXAMPLE)


@pytest.mark.parametrize("name", ["nothing", "quantize", "quantize.nothing", "", ".rtn", "..", "a b", "quantize.rtn.x"])
def test_unknown_methods(name: str) -> None:
    with pytest.raises(UsageError, match="no method is called|defines no method"):
        find(name)


def test_methods_of_others_are_found_by_their_path(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs.py").write_text(
        "from dataclasses import dataclass\nfrom rarefy.method import Method, PerTensor, setting\n"
        "@dataclass(frozen=True)\nclass Keep(PerTensor):\n"
        "    bits: int = setting(3, 'nothing')\n"
        "    def encode(self, site):\n        return site.code\n"
    )
    (tmp_path / "broken.py").write_text("import surely_not_installed\n")
    recipe = Recipe.from_arguments(["theirs:bits=5"])
    assert recipe.methods[0].name() == "theirs" and recipe.methods[0].settings()["bits"] == 5
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    made = recipe.apply(tiny.opened("chain"), tiny.evidence("chain"))
    assert set(made.history[0].damage.values()) == {0.0}
    with pytest.raises(UsageError, match="method broken cannot be imported: No module named 'surely_not_installed'"):
        find("broken")
    with pytest.raises(UsageError, match="module json defines no method"):
        find("json")
    sys.modules.pop("theirs")


def test_a_recipe_is_a_method() -> None:
    inner = Recipe((Magnitude(0.5), RTN(bits=3)))
    outer = Recipe((inner, GPTQ(bits=3)))
    assert outer.flat() == [Magnitude(0.5), RTN(bits=3), GPTQ(bits=3)]
    assert outer.statistics == {SecondMoment()} and inner.statistics == frozenset()
    assert len(outer.stages()) == 1
    assert Recipe.from_toml(outer.to_toml()).methods == tuple(outer.flat())
    made = outer.apply(tiny.opened("chain"), tiny.evidence("chain"))
    assert [step.method for step in made.history] == ["prune.magnitude", "quantize.rtn", "quantize.gptq"]
