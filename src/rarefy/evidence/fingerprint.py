"""Fingerprints of data: does the evaluation hold what was calibrated on?

A text's fingerprint is the k smallest 64-bit hashes of its 32-word windows: a uniform sample of its
distinct windows, whatever the alignment, line breaks, case or punctuation (Broder 1997, bottom-k
sketches of shingles). Repeated boilerplate counts once, since windows are distinct. For arrays the
windows are whole examples. Hashes are BLAKE2 and integer arithmetic: the same on every machine.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import FormatError, UsageError

WINDOW = 32
TOLERATED = 0.05
"""Share of evaluation windows that may also have been calibrated on: licence headers, common notes."""

Hashes = NDArray[np.uint64]

_KEPT, _KEPT_PER_WINDOW = 256, 1 / 512  # 2.8 KB of JSON up to 0.8 MB of English, 3.5 KB a MB above
_EVERYTHING = np.uint64(2**64 - 1)
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """``found`` of ``sampled`` windows of the evaluation data were calibrated on."""

    found: int
    sampled: int

    @property
    def share(self) -> float:
        return self.found / self.sampled if self.sampled else 0.0

    @property
    def significant(self) -> bool:
        """Whether the true share exceeds TOLERATED, by a one-sided score test at 97.5 %."""
        expected = TOLERATED * self.sampled
        return self.found > expected + 1.96 * math.sqrt(expected * (1.0 - TOLERATED))


def fingerprint(text: str) -> str:
    """Sketch of a text as one printable string, at most 4 KB for each MB of text and never under 8 bytes."""
    return _sketch(window_hashes(text))


def fingerprint_examples(examples: NDArray[Any]) -> str:
    """Sketch of an array of examples (n, ...), by the bytes of each."""
    return _sketch(example_hashes(examples))


def overlap(calibration: str, evaluation: str) -> Overlap:
    """How much of the evaluation data was calibrated on, from two fingerprints.

    Raises:
        FormatError: a fingerprint is damaged.
    """
    (bound, known), (other, seen) = _parse(calibration), _parse(evaluation)
    return _compare(min(bound, other), known, seen)


def check_disjoint(calibration: str, evaluation: str) -> None:
    """Refuse to evaluate on text that was calibrated on.

    Args:
        calibration: fingerprint of the calibration text, from the artifact.
        evaluation: the evaluation text itself, so that even a short one is sampled densely.

    Raises:
        UsageError: more than TOLERATED of the evaluation text's windows were calibrated on.
        FormatError: the fingerprint is damaged.
    """
    _refuse(_compare(*_parse(calibration), window_hashes(evaluation)))


def check_disjoint_examples(calibration: str, evaluation: NDArray[Any]) -> None:
    """``check_disjoint`` for arrays of examples (n, ...)."""
    _refuse(_compare(*_parse(calibration), example_hashes(evaluation)))


def window_hashes(text: str) -> Hashes:
    """Sorted distinct hashes of the windows of 32 words; of all its words, if a text has fewer."""
    # Runs without spaces (Chinese, hexadecimal) are cut, or a page would be one word.
    words = re.findall(r"\w{1,16}", text.lower())
    if not words:
        return np.empty(0, np.uint64)
    known = {word: _hash(word.encode()) for word in set(words)}
    values = np.fromiter((known[word] for word in words), np.uint64, len(words))
    width = min(WINDOW, len(values))
    windows = np.zeros(len(values) - width + 1, np.uint64)
    for start in range(width):
        windows = windows * _ODD + values[start : start + len(windows)]
    return np.unique(_mixed(windows))


def example_hashes(examples: NDArray[Any]) -> Hashes:
    """Sorted distinct hashes of the bytes of each example of an array (n, ...)."""
    rows: Iterable[NDArray[Any]] = np.ascontiguousarray(examples)
    return np.unique(np.fromiter((_hash(row.tobytes()) for row in rows), np.uint64, len(examples)))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _mixed(x: Hashes) -> Hashes:
    """The finalizer of splitmix64, so that the order of windows owes nothing to their last words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sketch(hashes: Hashes) -> str:
    """The bound below which every hash is listed, then those hashes; little-endian, in base64."""
    kept = max(_KEPT, int(len(hashes) * _KEPT_PER_WINDOW))
    bound = _EVERYTHING if len(hashes) <= kept else hashes[kept - 1]
    listed = np.concatenate([np.array([bound], np.uint64), hashes[:kept]])
    return base64.b64encode(listed.astype("<u8").tobytes()).decode("ascii")


def _parse(sketch: str) -> tuple[np.uint64, Hashes]:
    try:
        data = base64.b64decode(sketch, validate=True)
        listed = np.frombuffer(data, "<u8").astype(np.uint64)
        return listed[0], listed[1:]
    except (binascii.Error, TypeError, ValueError, IndexError):
        raise FormatError(
            "the fingerprint of the calibration data cannot be read",
            "it is not base64 of 64-bit hashes",
            "run `rarefy verify` on the artifact",
        ) from None


def _compare(bound: np.uint64, known: Hashes, seen: Hashes) -> Overlap:
    seen = seen[seen <= bound]
    return Overlap(int(np.isin(seen, known).sum()), len(seen))


def _refuse(found: Overlap) -> None:
    if found.significant:
        raise UsageError(
            "the evaluation data were calibrated on",
            f"about {found.share:.0%} of them were in the calibration data",
            "give other data with --data",
        )
