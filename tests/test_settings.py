"""Settings from text and from TOML; wrong ones are one line with the name, the value and what it must be."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.method import Method, parse_pairs, setting
from rarefy.model import Model
from rarefy.settings import build, convert, split_outside_brackets


@dataclass(frozen=True)
class Example(Method):
    """A method with a setting of every kind."""

    count: int = setting(1, "a number", low=0, high=9)
    share: float = setting(0.5, "a share", low=0, high=1)
    on: bool = setting(False, "a switch")
    mode: str = setting("a", "a choice", choices=("a", "b"))
    size: int | None = setting(None, "an integer or none", low=1)
    names: tuple[str, ...] = field(default=(), kw_only=True, metadata={"help": "patterns"})
    steps: tuple[int, ...] = setting((), "numbers", high=5)

    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        return model


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": "3"}, Example(3)),
        ({"count": 3.0}, Example(3)),
        ({"share": "1e-1"}, Example(share=0.1)),
        ({"share": 1}, Example(share=1)),
        ({"on": "yes"}, Example(on=True)),
        ({"on": "0"}, Example(on=False)),
        ({"on": True}, Example(on=True)),
        ({"mode": "b"}, Example(mode="b")),
        ({"size": "none"}, Example(size=None)),
        ({"size": "4"}, Example(size=4)),
        ({"names": "a"}, Example(names=("a",))),
        ({"names": "[a, b]"}, Example(names=("a", "b"))),
        ({"names": "*.[qk]"}, Example(names=("*.[qk]",))),
        ({"names": "[*.[qk],[a,b]x]"}, Example(names=("*.[qk]", "[a,b]x"))),
        ({"names": ["a", "b"]}, Example(names=("a", "b"))),
        ({"names": ""}, Example()),
        ({"steps": "1,2"}, Example(steps=(1, 2))),
    ],
)
def test_values(given: dict, expected: Example) -> None:
    made = build(Example, given, "example")
    assert made == expected
    assert type(made.count) is int and type(made.on) is bool


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"count": "x"}, "example: count='x': it must be an integer"),
        ({"count": "3.5"}, "example: count='3.5': it must be an integer"),
        ({"count": True}, "example: count=True: it must be an integer"),
        ({"count": -1}, "count=-1: it must be at least 0"),
        ({"count": 10}, "count=10: it must be at most 9"),
        ({"share": "nan"}, "share=nan: it must be finite"),
        ({"share": float("inf")}, "share=inf: it must be finite"),
        ({"share": "half"}, "share='half': it must be a number"),
        ({"on": "maybe"}, "on='maybe': it must be true or false"),
        ({"mode": "c"}, "mode='c': it must be one of a, b"),
        ({"mode": 1}, "mode=1: it must be text"),
        ({"size": 0}, "size=0: it must be at least 1"),
        ({"size": "x"}, "size='x': it must be an integer or none"),
        ({"names": 3}, "names=3: it must be a list, each text"),
        ({"names": ["a", 3]}, "names=.'a', 3.: it must be a list, each text"),
        ({"steps": [9]}, "steps=.9,.: it must be at most 5"),
        ({"cuont": 1}, "example has no setting 'cuont'; did you mean count"),
    ],
)
def test_wrong_values_are_one_line(given: dict, line: str) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        build(Example, given, "example")
    assert "\n" not in str(caught.value) and caught.value.status == 2


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        (" a = 1 , b=x=y,", {"a": "1", "b": "x=y"}),
        ("a=[x,y],b=2", {"a": "[x,y]", "b": "2"}),
        ("a=[x,y[0,1]z],b=2", {"a": "[x,y[0,1]z]", "b": "2"}),
    ],
)
def test_pairs(text: str, pairs: dict) -> None:
    assert parse_pairs(text) == pairs


@pytest.mark.parametrize(
    ("text", "line"), [("a", "'a' is not a setting; write name=value"), ("a=1,a=2", "a is given twice; write")]
)
def test_pairs_that_are_none(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        parse_pairs(text)


@given(st.text("ab,[]= ", max_size=20))
def test_splitting_loses_nothing_but_commas_and_blanks(text: str) -> None:
    parts = split_outside_brackets(text)
    assert "".join(parts).replace(" ", "").replace(",", "") == text.replace(" ", "").replace(",", "")
    assert all(part == part.strip() != "" for part in parts)


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    for kind in (int, float, bool, str, int | None, tuple[str, ...], tuple[int, ...]):
        try:
            convert(text, kind, "x")
        except UsageError as error:
            assert str(error).startswith("x=")
