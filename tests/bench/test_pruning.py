"""What the comparison of prunings tells, of runs made here: who is missing, who is compared with whom, at what size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

import pruning

RUN = """
import json, pathlib, shutil, sys
*words, model, tokens, out = sys.argv[1:]
assert "wanda" not in " ".join(words), "this one fails"
for file in pathlib.Path(model).iterdir():
    shutil.copy(file, out)
size = 7 if "--size" in words else 1000 + len(words)
found = {"words": words, "bytes": {"file": size}}
pathlib.Path(out, "run.json").write_text(json.dumps(found))
"""


@pytest.fixture
def run(tmp_path: Path, llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> pruning.Run:
    """Contestants that copy the network, but for Wanda's, which fail; the peer is not there at all."""
    llama.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 64, (3, 8)))
    (tmp_path / "run.py").write_text(RUN)

    def ours(name: str, work: Path, recipe: tuple[str, ...], size: int | None = None) -> pruning.Contestant:
        words = (*recipe, *(["--size", str(size)] if size else []))
        return pruning.Contestant(name, (sys.executable, str(tmp_path / "run.py"), *words))

    monkeypatch.setattr(pruning, "ours", ours)
    return pruning.Run(tmp_path / "work", tmp_path / "model", tmp_path / "ids.npy", ["*"])


def test_what_fails_is_missing_and_holds_up_no_other(run: pruning.Run) -> None:
    run.add_all(str(run.work / "python"))
    found = pruning.report(run, np.random.default_rng(1).integers(0, 64, (4, 8)))
    patterns = list(pruning.PATTERNS)
    assert found["missing"] == [f"{n}-{p}" for n in ("rarefy-wanda", "llmcompressor-sparsegpt") for p in patterns]
    assert all(row["kl"]["value"] == pytest.approx(0, abs=1e-6) for row in found["contestants"].values())
    assert list(found["paired differences"]) == [f"{n} - entropy at the size of {n}" for n in pruning.RECIPES]


def test_quantize_alone_gets_the_size_of_the_file_that_it_meets(run: pruning.Run) -> None:
    run.add_all(str(run.work / "python"))
    for name, recipe in pruning.RECIPES.items():
        words = json.loads((run.made[f"entropy at the size of {name}"] / "run.json").read_text())["words"]
        assert words == ["quantize.entropy", "--size", str(1000 + len(recipe))]


def test_what_was_not_asked_for_is_not_made(run: pruning.Run) -> None:
    run.only = ["*magnitude-half"]
    run.add_all(None)
    assert list(run.made) == ["rarefy-magnitude-half"]
    assert len(run.missing) == 7 + 2 * len(pruning.RECIPES)
