"""Calibration and evaluation data for a network: what the user gave, or the default where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.errors import UsageError
from rarefy.evidence.sources import Arrays, Sentences, Text, Tokens, read, topics
from rarefy.families import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rarefy.model import Model

BLOCKS = 64
"""Blocks of calibration data, unless told: 32,768 tokens."""

LENGTH = 512
"""Tokens a block, unless told."""


@dataclass(frozen=True)
class Calibration:
    """inputs for the walk; fingerprint and name for the manifest and for messages."""

    inputs: NDArray[Any]
    fingerprint: str
    name: str

    def section(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {"name": self.name, "shape": list(self.inputs.shape), "fingerprint": self.fingerprint}


def tokenizer_of(model: Model) -> Any:
    """The tokenizer beside the weights. Raises UsageError when there is none."""
    import transformers

    folder = model.skeleton.folder
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise UsageError(
            f"{model.source} has no tokenizer",
            "text cannot become tokens without one",
            "give token ids as an .npz with x (blocks x tokens)",
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UsageError(f"the tokenizer of {model.source} cannot be loaded", str(error)) from None


def calibration(model: Model, files: Sequence[str | Path], *, blocks: int = BLOCKS, length: int = LENGTH) -> Calibration:
    """The calibration inputs of a network: `files`, or the default text for one that reads tokens.

    blocks: at most so many blocks of `length` tokens (or examples, of arrays).
    Raises UsageError when there is no fit between network and data.
    """
    source = _source(model, files, evaluation=False)
    if isinstance(source, Text):
        tokens = source.tokens(tokenizer_of(model), _length(model, length), blocks)
        return Calibration(tokens.ids, tokens.fingerprint(), tokens.name)
    x = source.x if np.issubdtype(source.x.dtype, np.floating) else source.x[:blocks]
    return Calibration(x, source.fingerprint(), source.name)


def evaluation(
    model: Model, files: Sequence[str | Path], *, blocks: int | None = None, length: int = LENGTH
) -> Tokens | Sentences | Arrays:
    """The evaluation data of a network: `files`, or the default text's other part."""
    source = _source(model, files, evaluation=True)
    if isinstance(source, Text):
        if is_causal(model):
            return source.tokens(tokenizer_of(model), _length(model, length), blocks)
        return source.sentences(tokenizer_of(model), min(128, _length(model, 128)), blocks)
    if is_causal(model):
        return source.tokens()
    return source if blocks is None else Arrays(source.x[:blocks], None if source.y is None else source.y[:blocks], source.name)


def is_causal(model: Model) -> bool:
    """Whether the network predicts the next token."""
    config = model.skeleton.config() or {}
    names = config.get("architectures") or [""]
    return str(names[0]).endswith(("ForCausalLM", "LMHeadModel"))


def reads_tokens(model: Model) -> bool:
    """Whether the network's input are token ids."""
    return getattr(model.skeleton.empty, "main_input_name", "") == "input_ids"


def _length(model: Model, length: int) -> int:
    """No longer than the network's positions."""
    config = model.skeleton.config() or {}
    return min(length, int(config.get("max_position_embeddings") or length))


def _source(model: Model, files: Sequence[str | Path], *, evaluation: bool) -> Text | Arrays:
    if files:
        source = read(files)
        if isinstance(source, Text) and not reads_tokens(model):
            family = family_of(model.skeleton.empty)
            raise UsageError(
                f"{model.source} does not read text",
                f"it is {'a ' + family.NAME if family else type(model.skeleton.empty).__name__}",
                "give an .npz with x",
            )
        return source
    if not reads_tokens(model):
        raise UsageError(
            f"{model.source} has no default data", "only networks that read text have", "give an .npz with x to --data"
        )
    parts = topics()
    return parts.evaluation if evaluation else parts.calibration
