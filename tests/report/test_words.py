"""Figures as people read them."""

from __future__ import annotations

import pytest

from rarefy.report import words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (8, "8 s"),
        (59.4, "59 s"),
        (185, "3 min 05 s"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations(value: float, said: str) -> None:
    assert words.seconds(value) == said


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0"), (260_032, "260,032"), (134_515_008, "135 million"), (7_241_732_096, "7.24 billion")]
)
def test_counts(number: int, said: str) -> None:
    assert words.count(number) == said


def test_plurals() -> None:
    assert (words.plural(1, "tensor"), words.plural(2, "tensor"), words.plural(2, "matrix")) == (
        "1 tensor",
        "2 tensors",
        "2 matrices",
    )


def test_names_that_differ_in_numbers_are_one() -> None:
    reasons = {f"model.layers.{i}.gate.weight": "a router" for i in range(30)}
    reasons |= {"layer1.0.weight": "odd", "head.weight": "excluded"}
    assert [(what, len(names), why) for what, names, why in words.grouped(reasons)] == [
        ("model.layers.*.gate.weight (30)", 30, "a router"),
        ("layer1.0.weight", 1, "odd"),
        ("head.weight", 1, "excluded"),
    ]


def test_settings_leave_out_what_is_empty() -> None:
    assert words.settings({"bits": 4, "symmetric": False, "include": [], "exclude": ["a", "b"], "x": None}) == (
        "bits=4 symmetric=false exclude=[a,b]"
    )
