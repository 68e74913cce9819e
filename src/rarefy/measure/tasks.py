"""What is asked of a network: its inputs in micro-batches, its output law, and its score.

A task knows its data and how networks of its kind are called; ``evaluate`` knows nothing of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from rarefy.errors import UsageError
from rarefy.evidence.pairs import Pairs
from rarefy.evidence.sources import Arrays, Sentences, Text, Tokens
from rarefy.measure.divergence import Law, cosine_distance, gaussian_kl, negative_log_likelihood, softmax_kl

Network = nn.Module | Callable[..., Any]
Data = Tokens | Sentences | Pairs | Arrays

_TOKENS_AT_ONCE = 512
_SENTENCES_AT_ONCE = 32
_EXAMPLES_AT_ONCE = 256
_VALUES_AT_ONCE = 1 << 20


class Task(Protocol):
    """n blocks of data, read some at a time."""

    @property
    def blocks(self) -> int: ...

    @property
    def batch(self) -> int:
        """Blocks a micro-batch, unless told."""

    @property
    def law(self) -> Law:
        """Of the family's output."""

    @property
    def measures(self) -> tuple[str, ...]:
        """What a network scores on it, as ``evaluation.MEASURES`` names it."""

    def outputs(self, network: Network, rows: slice, device: torch.device) -> Tensor:
        """The network's outputs on some blocks, (rows, ..., d)."""

    def score(self, outputs: Tensor, rows: slice) -> dict[str, Tensor]:
        """Figures of each block, (rows,), named as in ``evaluation.Figures``; answers may be (rows, ...)."""


@dataclass(frozen=True)
class Language:
    """A causal language model on token blocks: ``network(ids)`` gives logits (B, T, V), or has them as ``.logits``."""

    data: Tokens
    law: Law = softmax_kl
    measures: tuple[str, ...] = ("nll", "perplexity")

    @property
    def blocks(self) -> int:
        return len(self.data.ids)

    @property
    def batch(self) -> int:
        return max(1, _TOKENS_AT_ONCE // int(self.data.ids.shape[1]))

    def outputs(self, network: Network, rows: slice, device: torch.device) -> Tensor:
        ids = torch.from_numpy(self.data.ids[rows]).to(device)
        # A cache of keys and values would be built only to be thrown away.
        caches = isinstance(network, nn.Module) and hasattr(getattr(network, "config", None), "use_cache")
        return _logits(_read(network, ids, use_cache=False) if caches else _read(network, ids))

    def score(self, outputs: Tensor, rows: slice) -> dict[str, Tensor]:
        # The last position predicts nothing, but to slice it off first would copy all logits.
        targets = torch.from_numpy(np.roll(self.data.ids[rows], -1, axis=1)).to(outputs.device)
        nll = negative_log_likelihood(outputs, targets)[:, :-1].double().mean(1)
        return {"nll": nll, "answers": outputs.argmax(-1).int()}


@dataclass(frozen=True)
class Examples:
    """A network that reads arrays: ``network(x)`` gives (B, d), or has it as ``.logits``."""

    data: Arrays
    law: Law

    @property
    def blocks(self) -> int:
        return len(self.data.x)

    @property
    def measures(self) -> tuple[str, ...]:
        return ("accuracy",) if self.data.y is not None and self.data.y.dtype.kind != "f" else ()

    @property
    def batch(self) -> int:
        return min(_EXAMPLES_AT_ONCE, max(1, _VALUES_AT_ONCE // max(1, int(self.data.x[0].size))))

    def outputs(self, network: Network, rows: slice, device: torch.device) -> Tensor:
        return _logits(network(torch.from_numpy(np.ascontiguousarray(self.data.x[rows])).to(device)))

    def score(self, outputs: Tensor, rows: slice) -> dict[str, Tensor]:
        answers = {"answers": outputs.argmax(-1).int()} if self.law is softmax_kl and outputs.ndim == 2 else {}
        y = self.data.y
        if y is None or not self.measures:
            return answers
        labels = torch.from_numpy(y[rows]).to(outputs.device)
        if outputs.ndim != 2 or int(labels.max()) >= outputs.shape[-1]:
            raise UsageError(
                f"the labels of {self.data.name} are not those of the network",
                f"it gives {tuple(outputs.shape[1:])} outputs an example, the labels go up to {int(y.max())}",
                "number the classes as the network does",
            )
        return {**answers, "correct": outputs.argmax(-1) == labels}


@dataclass(frozen=True)
class Embedding:
    """A sentence encoder: ``network(input_ids=, attention_mask=)`` gives embeddings (B, d), or hidden states
    (B, T, d) which are averaged over the tokens."""

    data: Sentences
    law: Law = cosine_distance
    measures: tuple[str, ...] = ()
    batch: int = _SENTENCES_AT_ONCE

    @property
    def blocks(self) -> int:
        return len(self.data.ids)

    def outputs(self, network: Network, rows: slice, device: torch.device) -> Tensor:
        return _embedded(network, self.data.ids[rows], device)

    def score(self, outputs: Tensor, rows: slice) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Similarity:
    """A sentence encoder on scored pairs: called as ``Embedding`` says, its answer is the cosine of a pair."""

    data: Pairs
    law: Law = cosine_distance
    measures: tuple[str, ...] = ("spearman",)
    batch: int = _SENTENCES_AT_ONCE // 2

    @property
    def blocks(self) -> int:
        return len(self.data.scores)

    def outputs(self, network: Network, rows: slice, device: torch.device) -> Tensor:
        sides = (self.data.first.ids[rows], self.data.second.ids[rows])
        return torch.stack([_embedded(network, ids, device) for ids in sides], dim=1)

    def score(self, outputs: Tensor, rows: slice) -> dict[str, Tensor]:
        return {
            "similarity": functional.cosine_similarity(outputs[:, 0].double(), outputs[:, 1].double(), dim=-1),
            "gold": torch.from_numpy(self.data.scores[rows]),
        }


def _embedded(network: Network, sentences: tuple[NDArray[np.int64], ...], device: torch.device) -> Tensor:
    """Embeddings (B, d)."""
    rows = [torch.from_numpy(ids) for ids in sentences]
    ids = pad_sequence(rows, batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
    found = _named(_read(network, input_ids=ids, attention_mask=mask), "sentence_embedding", "last_hidden_state")
    if found.ndim == 3:
        weight = mask.unsqueeze(-1).to(found.dtype)
        found = (found * weight).sum(1) / weight.sum(1)
    return found


def task_of(data: Data, law: Law | None = None) -> Task:
    """The task that data pose: language for tokens, embedding for sentences, similarity for pairs, and for arrays
    classification, or regression where the targets are floats. ``law`` overrides the output law.

    Raises:
        UsageError: there are no data, or text was not yet made tokens or sentences.
    """
    if isinstance(data, Text):
        raise UsageError("text must be tokenised before it is measured on", remedy="call .tokens() or .sentences()")
    task: Task
    if isinstance(data, Tokens):
        task = Language(data, law or softmax_kl)
    elif isinstance(data, Sentences):
        task = Embedding(data, law or cosine_distance)
    elif isinstance(data, Pairs):
        task = Similarity(data, law or cosine_distance)
    else:
        regression = data.y is not None and data.y.dtype.kind == "f"
        task = Examples(data, law or (gaussian_kl if regression else softmax_kl))
    if task.blocks == 0:
        raise UsageError(f"there is nothing to measure on in {data.name}")
    return task


def _read(network: Network, *args: Any, **settings: Any) -> Any:
    try:
        return network(*args, **settings)
    except IndexError as error:
        raise UsageError(
            "the network cannot read these tokens",
            str(error),
            "use its own tokenizer, and blocks no longer than its context",
        ) from None


def _logits(output: Any) -> Tensor:
    return _named(output, "logits")


def _named(output: Any, *names: str) -> Tensor:
    """The tensor among what networks return: itself, by name, or the first of a tuple."""
    for name in names:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        raise UsageError("the network's output is not understood", f"it is a {type(output).__name__}, not a tensor")
    return first
