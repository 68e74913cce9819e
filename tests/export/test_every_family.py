"""The table of the guide: eight families, four targets. A cell is exported and agrees, or is refused in clear words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from zoo import ZOO

from rarefy.errors import UsageError
from rarefy.evidence.sources import Arrays, Sentences, Tokens
from rarefy.export.run import export
from rarefy.export.target import target
from rarefy.model import Model

FAMILIES = {
    "llama": "Llama",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gpt_neox": "GPT-NeoX",
    "gpt2": "GPT-2",
    "bert": "BERT",
    "vit": "ViT",
    "resnet": "ResNet",
}
TARGETS = {
    "safetensors": "safetensors",
    "compressed-tensors": "compressed-tensors:bits=8,group=16,symmetric=true",
    "gguf": "gguf:type=q8_0",
    "onnx": "onnx:bits=8",
}
PACKAGES = {"compressed-tensors": "compressed_tensors", "gguf": "gguf", "onnx": "onnxruntime"}
BODY = "it holds linear layers of a network's body, and this one has none"
KNOWN = "exported are llama, mistral, qwen2, qwen3"
REFUSED = {
    **{(family, "compressed-tensors"): BODY for family in ("gpt2", "resnet")},
    **{(family, "gguf"): KNOWN for family in FAMILIES if family not in ("llama", "qwen3")},
}


def table() -> str:
    """As the guide has it."""
    lines = [f"| network | {' | '.join(TARGETS)} |", "|" + " --- |" * (1 + len(TARGETS))]
    for family, name in FAMILIES.items():
        cells = [f"refused: {REFUSED[family, to]}" if (family, to) in REFUSED else "yes" for to in TARGETS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_guide_has_the_table() -> None:
    assert table() in (Path(__file__).parents[2] / "docs/guides/exporting.md").read_text()


def read(family: str, x: np.ndarray) -> Tokens | Sentences | Arrays:
    if family == "bert":
        return Sentences(tuple(x), "", "sentences")
    return Tokens(x, "", "ids") if ZOO[family].reads == "tokens" else Arrays(x, None, "images")


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_works_or_says_why_not(family: str, to: str, opened: Callable[..., Model], tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES.get(to, "transformers"))
    model, data = opened(ZOO[family].build()), read(family, ZOO[family].inputs())
    if (family, to) in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[family, to]):
            export(model, target(TARGETS[to]), tmp_path / "out", data)
        assert not list(tmp_path.glob("*out*"))
        return
    made = export(model, target(TARGETS[to]), tmp_path / "out", data)
    asked = [proof for proof in made.proofs if not proof.absent]
    assert asked and all(proof.kl < 1e-4 for proof in asked)
    assert to == "safetensors" or any("8" in form for form in made.forms), made.forms
