"""What networks write: does it go round in circles, and does it end where the original's ends?

Divergence is measured on text that people wrote; a network that only ever reads such text does not
show what it does when it reads its own. So each continues a few fixed prompts, taking the likeliest
token each time, and the continuations are looked at beside the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

PROMPTS = (
    "Once upon a time there was",
    "The best way to learn a new language is",
    "Explain in simple words why the sky is blue.",
    "Write a short story about a dog that gets lost.",
    "The history of the city begins",
    "Give three reasons to drink water.",
    "def fibonacci(n):",
    "What is the capital of France?",
)

TOKENS = 128
"""At most so many tokens of each continuation, unless told."""

REPEATS = 3  # of the last phrase, at which a text counts as a loop
_PHRASE = 2  # tokens, at least

_MORE_LOOPS = 2  # texts than the original's; a single one comes and goes with the least change of the weights
_RUNS_ON = 0.5  # of the texts that the original ends
_SHORT = 0.5  # of the original's length


def distinct(ids: Sequence[int], n: int) -> float:
    """The share of n-grams that are not repeats of an earlier one, 1.0 for a text without n-grams.

    Source: Li et al. (2016), distinct-n.
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def longest_run(ids: Sequence[int]) -> int:
    """Tokens of the longest stretch that says one phrase, of any length, at least twice in a row; 0 if none does."""
    longest = 0
    for period in range(1, len(ids) // 2 + 1):
        same = 0
        for i in range(period, len(ids)):
            same = same + 1 if ids[i] == ids[i - period] else 0
            if same >= period:
                longest = max(longest, same + period)
    return longest


def loops(ids: Sequence[int]) -> bool:
    """Whether a text ends in a phrase of at least two tokens said three times in a row.

    Source: Holtzman et al. (2020), "The curious case of neural text degeneration", on repetition.
    """
    for length in range(_PHRASE, len(ids) // REPEATS + 1):
        tail = list(ids[-REPEATS * length :])
        if tail == tail[:length] * REPEATS:
            return True
    return False


@dataclass(frozen=True)
class Continuation:
    """What a network wrote after a prompt: token ``ids`` without the one that ended it, and whether it ``ended``."""

    prompt: str
    ids: tuple[int, ...]
    ended: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        """The text and what is to be said of it."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "tokens": len(self.ids),
            "ended": self.ended,
            "loops": loops(self.ids),
            "longest_run": longest_run(self.ids),
            "distinct": [distinct(self.ids, n) for n in (1, 2, 3, 4)],
        }


@dataclass(frozen=True)
class Speech:
    """All continuations of one network.

    Attributes:
        limit: of tokens, at which a continuation that has not ended is cut.
    """

    continuations: tuple[Continuation, ...]
    limit: int

    @property
    def loops(self) -> int:
        """How many end in a loop."""
        return sum(loops(each.ids) for each in self.continuations)

    @property
    def ended(self) -> int:
        """How many the network ended by itself."""
        return sum(each.ended for each in self.continuations)

    @property
    def tokens(self) -> int:
        """Of all continuations."""
        return sum(len(each.ids) for each in self.continuations)

    @property
    def longest_run(self) -> int:
        """Tokens of the longest repeated stretch in any of them."""
        return max((longest_run(each.ids) for each in self.continuations), default=0)

    def distinct(self, n: int = 4) -> float:
        """Mean over the continuations of their distinct n-grams."""
        return sum(distinct(each.ids, n) for each in self.continuations) / max(1, len(self.continuations))

    def as_json(self) -> dict[str, Any]:
        """Totals, and each text."""
        return {
            "loops": self.loops,
            "ended": self.ended,
            "tokens": self.tokens,
            "limit": self.limit,
            "longest_run": self.longest_run,
            "distinct": [self.distinct(n) for n in (1, 2, 3, 4)],
            "texts": [each.as_json() for each in self.continuations],
        }


def speak(module: nn.Module, tokenizer: Any, prompts: Sequence[str] = PROMPTS, tokens: int = TOKENS) -> Speech:
    """Let a language model continue each prompt with its likeliest tokens.

    Args:
        module: a transformers model that can generate.
        tokenizer: of transformers. Where it has a chat template a prompt is a user's turn.
        tokens: at most so many for each, fewer where the network reads no further.

    Raises:
        UsageError: the module cannot generate, there is no tokenizer, or a prompt leaves no room.
    """
    from rarefy.engines.generate import continuations

    found, limit = continuations(module, tokenizer, prompts, tokens)
    said = (
        Continuation(prompt, tuple(ids), ended, tokenizer.decode(ids, skip_special_tokens=True))
        for prompt, (ids, ended) in zip(prompts, found, strict=True)
    )
    return Speech(tuple(said), limit)


def degeneration(name: str, speech: Speech, original: Speech | None = None) -> list[str]:
    """Sentences that warn of what is wrong with a network's texts, beside the original's where there are those.

    Greedy text of small networks loops by itself at times, so what counts is how much more often than the original.
    """
    n = len(speech.continuations)
    if original is None:
        return [f"{name} falls into loops in {speech.loops} of {n} texts"] if 2 * speech.loops > n else []
    found = []
    if speech.loops >= original.loops + _MORE_LOOPS:
        found.append(f"{name} falls into loops in {speech.loops} of {n} texts, the original in {original.loops}")
    both = zip(speech.continuations, original.continuations, strict=True)
    endings = [ours.ended for ours, theirs in both if theirs.ended]
    runs_on = endings.count(False)
    if runs_on > _RUNS_ON * len(endings):
        found.append(f"{name} does not end {runs_on} of the {len(endings)} texts that the original ends")
    if speech.tokens < _SHORT * original.tokens:
        found.append(f"{name} writes {speech.tokens} tokens where the original writes {original.tokens}")
    return found
