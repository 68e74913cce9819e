"""The original network's outputs: run once, a segment at a time, up to the last segment, whose input is kept on disk.

For a language model that is a row of hidden states a token, where logits would be a hundred times as much, and nothing
is left out, as with the largest k logits. The head runs again whenever a batch is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rarefy.evidence.passes import Passes
from rarefy.evidence.sites import Visited
from rarefy.families import Segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rarefy.evidence import Evidence, Site
    from rarefy.model import Model


class Teacher(Passes):
    """What a network gives for each micro-batch of the evidence, each `share` of the usual size.

    Of several processes each has them all: which one trains on a batch follows from the step.
    """

    def __init__(self, model: Model, evidence: Evidence, name: str, share: int) -> None:
        super().__init__(model, Segments(model), evidence, _nothing, name, share, every=True)
        self.run()

    def _run_all(self) -> list[Visited]:
        last = len(self.segments) - 1
        with self.evidence.progress.task("running the original", last * len(self.batches)) as advance:
            for i in range(last):
                self._feed(i, self._tensors(i), advance)
                if i > 0:
                    self._spool(i - 1).discard()
        self._last = self._tensors(last)
        return []

    def __call__(self, j: int) -> Any:
        """The network's output for micro-batch j."""
        with torch.no_grad():
            return self._run(len(self.segments) - 1, self._last, j)

    def close(self) -> None:
        """Remove what is kept on disk."""
        if len(self.segments) > 1:
            self._spool(len(self.segments) - 2).discard()


def _nothing(sites: list[Site], before: Sequence[Visited]) -> Visited:
    raise AssertionError("a teacher visits no site")
