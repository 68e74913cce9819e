"""Evidence: calibration data, and how and where the walk runs over them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rarefy.errors import UsageError
from rarefy.processes import Processes
from rarefy.progress import Progress, Silent

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rarefy.evidence.sites import Visited


class Journal(Protocol):
    """Where finished steps are kept, so that a run begun again goes on."""

    def load(self, step: str) -> Visited | None:
        """What a finished step made, or None."""
        ...

    def save(self, step: str, made: Visited) -> Visited:
        """Keep what a step made, whole or not at all; the same, out of memory where it can be read again."""
        ...

    def scratch(self, name: str) -> Path:
        """A folder for temporary data of this run, by name; not made yet."""
        ...


class Forgetful:
    """A journal that keeps nothing: for work in memory."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def load(self, step: str) -> Visited | None:
        return None

    def save(self, step: str, made: Visited) -> Visited:
        return made

    def scratch(self, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="rarefy-"))
            weakref.finalize(self, shutil.rmtree, self._folder, True)
        return self._folder / name


TOKENS_PER_BATCH = 4096
"""Tokens (or image rows) of one micro-batch: enough for full-speed products, little enough to hold."""

IMAGES_PER_BATCH = 256


@dataclass(frozen=True)
class Evidence:
    """What calibration rests on.

    inputs: token ids (n, length) int64, or examples (n, ...) float32; or a function that reads them when first
        wanted; None when there are none.
    device, dtype: where and in what type the walk computes ("float32" or "bfloat16"); statistics are float32.
    labels: (n,) int64 classes, or (n, ...) float32 targets of a regression, in the order of the inputs; None when
        there are none.
    batch: examples of a micro-batch; 0: as many as compute at full speed.
    processes: those that share the passes over the inputs, all of which see one journal.
    """

    inputs: NDArray[Any] | Callable[[], NDArray[Any]] | None = None
    device: str = "cpu"
    dtype: str = "float32"
    journal: Journal = field(default_factory=Forgetful)
    progress: Progress = field(default_factory=Silent)
    labels: NDArray[Any] | None = None
    batch: int = 0
    processes: Processes = field(default_factory=Processes)

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        if self.dtype not in ("float32", "bfloat16"):
            raise UsageError(f"dtype {self.dtype!r} is not known", remedy="use float32 or bfloat16")
        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def array(self) -> NDArray[Any]:
        """All calibration inputs. Raises UsageError when there are none."""
        inputs = self.inputs() if callable(self.inputs) else self.inputs
        if inputs is None or len(inputs) == 0:
            raise UsageError(
                "a method of this recipe needs calibration data",
                "none were given and this network has no default",
                "give them with --data (text files for a language model, .npz with x for others)",
            )
        return inputs

    def micro_batches(self, share: int = 1) -> list[torch.Tensor]:
        """The inputs in micro-batches, on the CPU: ids as int64, examples as `dtype`.

        share: each is that part of the usual size, where more is held of it.
        """
        import torch

        inputs = self.array()
        integers = np.issubdtype(inputs.dtype, np.integer)
        size = TOKENS_PER_BATCH // inputs.shape[1] if integers else IMAGES_PER_BATCH
        size = max(1, (self.batch or size) // share)
        parts = [torch.from_numpy(np.ascontiguousarray(inputs[i : i + size])) for i in range(0, len(inputs), size)]
        return [part.long() if integers else part.to(self.torch_dtype) for part in parts]
