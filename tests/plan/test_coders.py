"""Another coder is another file of the same numbers: by name, from the recipe, or all for the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from runs import digest, run

from rarefy.entropy import coders
from rarefy.entropy.choice import choice
from rarefy.errors import UsageError
from rarefy.files.container import Reader
from rarefy.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ["quantize.gptq:bits=3,group=16"]


def stored(out: Path) -> tuple[dict[str, np.ndarray], set[str], int]:
    """Values by name, the coders in use, bytes of the records."""
    reader = Reader(out)
    values = {name: reader.code(name)[0].decode() for name in reader.names()}
    used = {coder for name in reader.names() for coder in reader.head(name).coder_names()}
    reader.close()
    return values, used, sum(reader.sizes.values())


def test_every_coder_holds_the_same_numbers(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "default", ids, WORDS)
    expected, _, _ = stored(tmp_path / "default")
    sizes = {}
    for name in (*coders(), "archive"):
        made = run(llama, tmp_path / name, ids, WORDS, coder=name)
        assert made.decode_seconds > 0
        values, used, sizes[name] = stored(tmp_path / name)
        assert used <= set(choice(name))
        assert name in used or name == "archive"
        for key, value in expected.items():
            np.testing.assert_array_equal(values[key], value)
    assert max(sizes, key=sizes.__getitem__) == "raw"
    assert sizes["archive"] == min(sizes.values()) < sizes["context"]


def test_the_recipe_names_the_coder_and_the_call_overrules_it(llama: Path, ids: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_toml('coder = "huffman"\n' + Recipe.from_arguments(WORDS).to_toml())
    run(llama, tmp_path / "recipe", ids, recipe)
    run(llama, tmp_path / "call", ids, WORDS, coder="huffman")
    assert digest(tmp_path / "recipe") == digest(tmp_path / "call")
    assert Recipe.read(tmp_path / "call" / "recipe.toml") == recipe
    run(llama, tmp_path / "other", ids, recipe, coder="context")
    assert "huffman" not in stored(tmp_path / "other")[1]


def test_another_coder_is_another_run(llama: Path, ids: Path, tmp_path: Path) -> None:
    assert run(llama, tmp_path / "out", ids, WORDS).decode_seconds is None
    with pytest.raises(UsageError, match="other inputs or settings"):
        run(llama, tmp_path / "out", ids, WORDS, coder="context")


def test_unknown_coders_are_one_line(llama: Path, ids: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no coder is called 'morse'; choose one of raw, rans, .*, or archive"):
        run(llama, tmp_path / "out", ids, WORDS, coder="morse")
