"""What fuzzing found worth keeping, through every reader again. `make sanitize` does so for the kernels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH / "fuzz"))

import readers  # noqa: E402 -- what fuzzes stands beside what it fuzzes with

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readers, "FOLDER", tmp_path)
    yield


def test_every_kept_input_is_answered_or_refused() -> None:
    inputs = readers.kept(BENCH / "fuzz" / "readers.corpus")
    assert {data[0] for data in inputs if data} >= set(range(len(readers.TARGETS)))
    for data in inputs:
        readers.one(data)


def test_seeds_reach_every_reader_and_most_are_good() -> None:
    seeds = readers.seeds()
    assert {data[0] for data in seeds} == set(range(len(readers.TARGETS)))
    refused = 0
    for data in seeds:
        readers.one(data)
        try:
            readers.TARGETS[data[0]](data[1:])
        except readers.RarefyError:
            refused += 1
    assert refused < len(seeds) / 2


def test_a_reader_that_stumbles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "read_names", lambda cursor, count: [][count])
    with pytest.raises(IndexError):
        readers.one(bytes([readers.TARGETS.index(readers.names), 1, 0, 0]))


def test_half_an_hour_was_spent_and_nothing_broke() -> None:
    found = json.loads((BENCH / "results" / "fuzz.json").read_text())
    rows = [found["kernels"], found["readers"]]
    assert sum(row["seconds"] for row in rows) >= 1800
    assert all(row["executions"] > 100_000 and row["crashes"] == 0 for row in rows)
