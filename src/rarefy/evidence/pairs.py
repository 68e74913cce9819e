"""Pairs of sentences with a score of how alike they are, as STS-B has them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import FormatError
from rarefy.evidence.fingerprint import fingerprint
from rarefy.evidence.text import Sentences, Text, Tokenizer

_COLUMNS = {3: (0, 1, 2), 7: (4, 5, 6)}  # score, first, second: of a plain file, and of STS-B's own
_SUFFIXES = (".tsv", ".tsv.xz", ".tsv.gz")


@dataclass(frozen=True)
class Pairs:
    """Token ids of n pairs, their ``scores`` (n,) by people, the ``text`` of both, and the ``name`` to call them by."""

    first: Sentences
    second: Sentences
    scores: NDArray[np.float64]
    name: str

    @property
    def text(self) -> str:
        """All sentences as one."""
        return f"{self.first.text}\n\n{self.second.text}"

    def fingerprint(self) -> str:
        """Sketch of the text that was used, for the overlap guard."""
        return fingerprint(self.text)


def holds_pairs(path: str | Path) -> bool:
    """Whether a file is read as scored pairs: a .tsv, compressed or not."""
    return str(path).lower().endswith(_SUFFIXES)


def pairs_of(text: Text, tokenizer: Tokenizer, length: int = 128, limit: int | None = None) -> Pairs:
    """Scored pairs from lines of tab-separated columns: score, first and second sentence, or STS-B's seven or more.

    Args:
        tokenizer: adds special tokens; a sentence is cut to ``length`` tokens.
        limit: at most so many pairs, the first ones; left out, all.

    Raises:
        FormatError: a line is not such a pair.
    """
    lines = text.text.splitlines()[:limit]
    rows = [
        _row(columns, f"line {i} of {text.name}")
        for i, columns in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 1)
        if columns
    ]
    if not rows:
        raise FormatError(f"{text.name} has no pairs of sentences")

    def side(i: int) -> Sentences:
        found = [str(row[i]) for row in rows]
        ids = tuple(
            np.asarray(tokenizer(s, verbose=False, truncation=True, max_length=length)["input_ids"], dtype=np.int64)
            for s in found
        )
        return Sentences(ids, "\n\n".join(found), text.name)

    return Pairs(side(1), side(2), np.array([row[0] for row in rows], dtype=np.float64), text.name)


def _row(columns: list[str], where: str) -> tuple[float, str, str]:
    chosen = _COLUMNS.get(min(len(columns), 7))
    try:
        score, first, second = (columns[i] for i in chosen or ())
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(
            f"{where} is no scored pair",
            f"it has {len(columns)} columns",
            "give score, first and second sentence, separated by tabs",
        )
    return value, first, second
