"""Calibration and evaluation data for a network: what the user gave, or the default where there is one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.errors import UsageError
from rarefy.evidence.pairs import Pairs, holds_pairs, pairs_of
from rarefy.evidence.sources import Arrays, Sentences, Text, Tokens, read, topics
from rarefy.families import family_of, is_causal, reads_tokens

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
    """inputs for the walk; fingerprint and name for the manifest and for messages; labels for training, or None.
    text: what token ids were made of, where it is known."""

    inputs: NDArray[Any]
    fingerprint: str
    name: str
    labels: NDArray[Any] | None = None
    text: str = ""

    @classmethod
    def of(
        cls,
        model: Model,
        inputs: NDArray[Any],
        fingerprint: str,
        name: str,
        labels: NDArray[Any] | None = None,
        text: str = "",
    ) -> Calibration:
        """Raises UsageError when the network does not read such inputs."""
        if reads_tokens(model):
            check_ids(model, inputs, name)
        return cls(inputs, fingerprint, name, labels, text)

    def section(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {"name": self.name, "shape": list(self.inputs.shape), "fingerprint": self.fingerprint}


def has_tokenizer(model: Model) -> bool:
    """Whether there is a tokenizer beside the weights."""
    folder = model.skeleton.folder
    return folder is not None and any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))


def tokenizer_of(model: Model) -> Any:
    """The tokenizer beside the weights. Raises UsageError when there is none."""
    import transformers

    if not has_tokenizer(model):
        raise UsageError(
            f"{model.source} has no tokenizer",
            "text cannot become tokens without one",
            "give token ids as an .npz with x (blocks x tokens)",
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(model.skeleton.folder)
    except Exception as error:
        raise UsageError(f"the tokenizer of {model.source} cannot be loaded", str(error)) from None


def calibration(
    model: Model,
    files: Sequence[str | Path],
    *,
    blocks: int = BLOCKS,
    length: int = LENGTH,
    other_part: bool = False,
) -> Calibration:
    """The calibration inputs of a network: `files`, or the default text for one that reads tokens.

    blocks: at most so many blocks of `length` tokens, or of token ids in arrays; other arrays are used whole.
    other_part: of the default text, the part for evaluation.
    Raises UsageError when there is no fit between network and data.
    """
    source = _source(model, files, evaluation=other_part)
    if isinstance(source, Text):
        tokens = source.tokens(tokenizer_of(model), _length(model, length), blocks)
        return Calibration.of(model, tokens.ids, tokens.fingerprint(), tokens.name, text=tokens.text)
    x = source.x if np.issubdtype(source.x.dtype, np.floating) else source.x[:blocks]
    labels = None if source.y is None else source.y[: len(x)]
    return Calibration.of(model, x, source.fingerprint(), source.name, labels)


def evaluation(
    model: Model, files: Sequence[str | Path], *, blocks: int | None = None, length: int = LENGTH
) -> Tokens | Sentences | Pairs | Arrays:
    """The evaluation data of a network: `files`, or the default text's other part.

    For an encoder a .tsv holds scored pairs of sentences.
    """
    source = _source(model, files, evaluation=True)
    if isinstance(source, Text):
        if is_causal(model):
            tokens = source.tokens(tokenizer_of(model), _length(model, length), blocks)
            check_ids(model, tokens.ids, source.name)
            return tokens
        longest = min(128, _length(model, 128))
        if any(map(holds_pairs, files)):
            return pairs_of(source, tokenizer_of(model), longest, blocks)
        return source.sentences(tokenizer_of(model), longest, blocks)
    if blocks is not None:
        source = Arrays(source.x[:blocks], None if source.y is None else source.y[:blocks], source.name)
    if reads_tokens(model):
        check_ids(model, source.x, source.name)
    return source.tokens() if is_causal(model) else source


def shared_evaluation(
    models: Sequence[Model], files: Sequence[str | Path], *, blocks: int | None = None, length: int = LENGTH
) -> Tokens | Sentences | Pairs | Arrays:
    """The same evaluation data for several networks; one without a tokenizer reads what the others read.

    Raises UsageError when they would read different tokens.
    """
    shortest = min(_length(model, length) for model in models)
    reading = [model for model in models if has_tokenizer(model)] or list(models[:1])
    first, *others = (evaluation(model, files, blocks=blocks, length=shortest) for model in reading)
    for model, theirs in zip(reading[1:], others, strict=True):
        if not _same(first, theirs):
            raise UsageError(
                f"{reading[0].source} and {model.source} cannot be compared on this text",
                "they make different tokens of it",
                "compare networks with one tokenizer",
            )
    if isinstance(first, Tokens):
        for model in models:
            check_ids(model, first.ids, first.name)
    return first


def _same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, Pairs):
        return _same(first.first, second.first) and _same(first.second, second.second)
    if isinstance(first, Arrays):
        return True  # read from one file
    return len(first.ids) == len(second.ids) and all(map(np.array_equal, first.ids, second.ids))


def check_ids(model: Model, ids: NDArray[Any], name: str) -> None:
    """Raise UsageError unless `ids` are blocks of token ids that the network knows, no longer than it reads."""
    shape = f"x is {ids.dtype} {ids.shape}"
    if not np.issubdtype(ids.dtype, np.integer) or ids.ndim != 2:
        raise UsageError(f"{name} does not hold token ids", shape, "give integers of shape (blocks, tokens), or text")
    if ids.shape[1] > _length(model, ids.shape[1]):
        raise UsageError(f"the blocks of {name} are longer than {model.source} reads", shape, "cut them")
    find = getattr(model.skeleton.empty, "get_input_embeddings", None)
    known = None
    with contextlib.suppress(NotImplementedError):  # of networks with two inputs, which have no one table
        known = getattr(find() if find else None, "num_embeddings", None)
    if known is not None and ids.size and not (ids.min() >= 0 and ids.max() < known):
        raise UsageError(
            f"{name} has token ids that {model.source} does not know",
            f"they go from {ids.min()} to {ids.max()}, the network knows 0 to {known - 1}",
            "use the tokenizer that belongs to the network",
        )


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
                f"it is {'a ' + family.name(model.skeleton.empty) if family else type(model.skeleton.empty).__name__}",
                "give an .npz with x",
            )
        return source
    if not reads_tokens(model):
        raise UsageError(
            f"{model.source} has no default data", "only networks that read text have", "give an .npz with x to --data"
        )
    parts = topics()
    return parts.evaluation if evaluation else parts.calibration
