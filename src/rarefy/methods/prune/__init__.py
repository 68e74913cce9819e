"""Fewer weights."""

from __future__ import annotations

from dataclasses import dataclass

from rarefy.errors import UsageError
from rarefy.method import PerTensor, setting


@dataclass(frozen=True)
class Pruning(PerTensor):
    """How much one-shot prunings take away: a share of each tensor, or all but n of every m inputs of a row."""

    sparsity: float = setting(0.5, "share of weights made zero, per tensor", low=0, high=1)
    n: int = setting(0, "with m: weights kept of every m consecutive inputs; 0: unstructured", low=0)
    m: int = setting(0, "with n: the pattern's length", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.n > 0) != (self.m > 0) or self.n > self.m:
            raise UsageError(f"{self.name()}: n={self.n}, m={self.m}", "an n:m pattern needs 0 < n <= m")
