"""Text: the documents, and the token blocks and sentences made of them.

Without text of the user's own there is Python's: the topics of ``pydoc_data``, 0.46 MB of English,
in two parts that share no paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import UsageError
from rarefy.evidence.fingerprint import fingerprint

BLOCK = 512
"""Tokens a block, unless told."""

TOPICS_SEED = 0
EVALUATION_SHARE = 0.4
"""Of the topics. With SmolLM2's tokenizer both parts then hold more than 64 blocks of 512 tokens."""

_PIECE = 8192  # characters tokenised at once


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers do it."""

    def __call__(self, text: str, /, **settings: Any) -> Any: ...


@dataclass(frozen=True)
class Tokens:
    """Blocks of token ids: ``ids`` (N, T) int64, the ``text`` they cover, and the ``name`` to call it by."""

    ids: NDArray[np.int64]
    text: str
    name: str

    def fingerprint(self) -> str:
        """Sketch of the text that was used, for the overlap guard."""
        return fingerprint(self.text)


@dataclass(frozen=True)
class Sentences:
    """Token ids of n texts, each (t,) int64, with special tokens; the ``text`` they cover and its ``name``."""

    ids: tuple[NDArray[np.int64], ...]
    text: str
    name: str

    def fingerprint(self) -> str:
        """Sketch of the text that was used, for the overlap guard."""
        return fingerprint(self.text)


@dataclass(frozen=True)
class Text:
    """Documents, and the name that messages call them by."""

    documents: tuple[str, ...]
    name: str

    @property
    def text(self) -> str:
        """All documents as one."""
        return "\n\n".join(self.documents)

    def tokens(self, tokenizer: Tokenizer, length: int = BLOCK, limit: int | None = None) -> Tokens:
        """Cut the concatenated documents into blocks, without padding; the remainder is dropped.

        What the tokenizer puts before a text (a beginning-of-sequence token) stands before every
        block, since that is what the network saw in training. With a limit, pieces of some 8 KB are
        taken from all over the text by a fixed permutation until they fill the blocks.

        Args:
            tokenizer: called with one string, returns a mapping with ``"input_ids"``.
            length: T, tokens a block.
            limit: at most so many blocks; left out, all.

        Raises:
            UsageError: the text does not fill one block, or a setting is not positive.
        """
        if length < 2 or (limit is not None and limit < 1):
            raise UsageError("blocks need at least 2 tokens, and there must be at least one", f"got {length}, {limit}")
        prefix = _prefix(tokenizer)
        body = length - len(prefix)
        if body < 1:
            raise UsageError("the blocks are too short", f"{len(prefix)} of {length} tokens open a text")
        pieces = list(_pieces(self.text))
        wanted = None if limit is None else limit * body
        taken = _tokenised(pieces, tokenizer, wanted)
        flat = np.concatenate([taken[i] for i in sorted(taken)]) if taken else np.empty(0, np.int64)
        rows = len(flat) // body
        if rows == 0:
            raise UsageError(
                f"too little text in {self.name}",
                f"one block needs at least {body} tokens, it has {len(flat)}",
                "give more text with --data",
            )
        rows = rows if limit is None else min(rows, limit)
        ids = np.empty((rows, length), np.int64)
        ids[:, : len(prefix)] = prefix
        ids[:, len(prefix) :] = flat[: rows * body].reshape(rows, body)
        return Tokens(ids, "".join(pieces[i] for i in sorted(taken)), self.name)

    def passages(self) -> Iterator[str]:
        """Paragraphs of the documents; lines, in a document without blank lines."""
        for document in self.documents:
            paragraphs = [p for p in re.split(r"\n[ \t]*\n", document.strip()) if p.strip()]
            yield from paragraphs if len(paragraphs) > 1 else filter(str.strip, document.splitlines())

    def sentences(self, tokenizer: Tokenizer, length: int = 128, limit: int | None = None) -> Sentences:
        """The passages as an encoder reads them: one a text, special tokens added, cut to ``length`` tokens.

        Raises:
            UsageError: there are no passages.
        """
        passages = list(islice(self.passages(), limit))
        if not passages:
            raise UsageError(f"too little text in {self.name}", "it has no words", "give more text with --data")
        ids = tuple(_ids(tokenizer, p, truncation=True, max_length=length) for p in passages)
        return Sentences(ids, "\n\n".join(passages), self.name)


@dataclass(frozen=True)
class Parts:
    """Text cut in two that share no paragraph."""

    calibration: Text
    evaluation: Text


def topics(seed: int = TOPICS_SEED) -> Parts:
    """The topics of ``pydoc_data``, each in the calibration or in the evaluation part.

    Many topics repeat paragraphs of others; a paragraph stays in the first by name alone. A topic's
    part depends on its name and the seed only, so that Python versions agree but for new text.

    Raises:
        UsageError: this Python came without ``pydoc_data``.
    """
    try:
        from pydoc_data.topics import topics as pages
    except ImportError:
        raise UsageError(
            "there is no default text", "this Python came without pydoc_data", "give text with --data"
        ) from None
    return split(pages, "pydoc_data.topics", seed)


def split(pages: dict[str, str], name: str, seed: int) -> Parts:
    """Cut named pages into parts by a hash of their names, without the paragraphs seen before."""
    seen: set[str] = set()
    parts: tuple[list[str], list[str]] = ([], [])
    for title in sorted(pages):
        kept = []
        for paragraph in re.split(r"\n[ \t]*\n", pages[title]):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph.rstrip().lstrip("\n"))
        if kept:
            parts[_uniform(f"{seed}/{title}") < EVALUATION_SHARE].append("\n\n".join(kept))
    calibration, evaluation = (tuple(part) for part in parts)
    return Parts(
        Text(calibration, f"the calibration part of {name}"), Text(evaluation, f"the evaluation part of {name}")
    )


def _uniform(key: str) -> float:
    return int.from_bytes(sha256(key.encode()).digest()[:6], "big") / 2**48


def _pieces(text: str) -> Iterator[str]:
    """Cut at the first line end past every 8 KB, or at a space where a line is that long; joined they are the text."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        for mark in ("\n", " "):
            found = text.find(mark, end, end + _PIECE)
            if found >= 0:
                end = found + (mark == "\n")  # a word keeps the space before it, as tokenizers have it
                break
        yield text[start:end]
        start = end


def _tokenised(pieces: Sequence[str], tokenizer: Tokenizer, wanted: int | None) -> dict[int, NDArray[np.int64]]:
    """Ids by piece: of all pieces, or of as many as give the ``wanted`` tokens."""
    if wanted is None:
        return {i: _ids(tokenizer, piece, add_special_tokens=False) for i, piece in enumerate(pieces)}
    taken: dict[int, NDArray[np.int64]] = {}
    for i in sorted(range(len(pieces)), key=lambda i: _uniform(f"piece {i}")):
        if wanted <= 0:
            break
        taken[i] = _ids(tokenizer, pieces[i], add_special_tokens=False)
        wanted -= len(taken[i])
    return taken


def _prefix(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """What the tokenizer puts before a text: it is what precedes the text's own tokens."""
    bare, dressed = _ids(tokenizer, "a", add_special_tokens=False), _ids(tokenizer, "a")
    for start in range(len(dressed) - len(bare) + 1):
        if np.array_equal(dressed[start : start + len(bare)], bare):
            return dressed[:start]
    return dressed[:0]


def _ids(tokenizer: Tokenizer, text: str, **settings: Any) -> NDArray[np.int64]:
    return np.asarray(tokenizer(text, verbose=False, **settings)["input_ids"], dtype=np.int64)
