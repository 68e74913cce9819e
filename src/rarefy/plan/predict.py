"""What a run will take, said before it starts: memory and disk. Estimates, and checked against what there is."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rarefy.errors import ResourceError
from rarefy.evidence.evidence import IMAGES_PER_BATCH, TOKENS_PER_BATCH
from rarefy.families import Segments
from rarefy.measure import memory
from rarefy.model import shape_of
from rarefy.units import human

if TYPE_CHECKING:
    from pathlib import Path

    from rarefy.model import Model
    from rarefy.recipe import Recipe

FACTORIZATIONS = 4
"""Copies of a second moment, in float64, while it is factored."""


@dataclass(frozen=True)
class Needs:
    """Estimates in bytes. memory: above what the process already holds; disk: in the work folder and the output."""

    memory: int
    disk: int


def predict(model: Model, recipe: Recipe, examples: tuple[int, ...] | None) -> Needs:
    """What applying a recipe will take.

    examples: shape of the calibration inputs, None when the recipe needs none.
    """
    segments = Segments(model.skeleton)
    keys = model.keys
    numel = {name: math.prod(shape_of(model.codes, key)) for name, key in keys.items()}
    held = max(
        sum({keys[n]: numel[n] for n in segments.tensor_names(i) if n in numel}.values()) for i in range(len(segments))
    )
    widest = max((max(shape_of(model.codes, keys[p.parameter])) for ps in segments.places() for p in ps), default=1)
    largest = max(numel.values(), default=0)
    codes = sum(numel.values())
    memory_bytes = codes + 4 * held + 4 * 4 * largest
    disk = 2 * model_bytes(model)
    if examples is not None:
        per_batch = TOKENS_PER_BATCH if len(examples) == 2 else IMAGES_PER_BATCH * math.prod(examples[2:])
        inner = min(widest, 16384) if segments.blocks else widest
        memory_bytes += FACTORIZATIONS * 8 * _moment_width(model, segments) ** 2 + 4 * 6 * per_batch * inner
        disk += 2 * 4 * math.prod(examples[:2]) * _running_width(model, segments)
    return Needs(int(memory_bytes), int(disk))


def _moment_width(model: Model, segments: Segments) -> int:
    """The widest input of a layer whose second moment may be gathered."""
    keys = model.keys
    widths = [
        math.prod(shape_of(model.codes, keys[place.parameter])[1:])
        for places in segments.places()
        for place in places
        if place.kind != "embedding"
    ]
    return max(widths, default=0)


def _running_width(model: Model, segments: Segments) -> int:
    """Values per token that are spooled between segments: the width of what the first block reads."""
    if not segments.blocks:
        return 0
    config = model.skeleton.config() or {}
    return int(config.get("hidden_size") or 1024)


def model_bytes(model: Model) -> int:
    """Bytes of the tensors in their own element types."""
    from rarefy.codes.dtypes import dtype_of

    return sum(math.prod(shape_of(model.codes, key)) * dtype_of(model.dtypes[key]).size for key in model.codes)


def check(needs: Needs, folder: Path) -> None:
    """Raise ResourceError when memory or disk are too small for what a run needs."""
    free = memory.available()
    if needs.memory > free:
        raise ResourceError(
            f"this run needs about {human(needs.memory)} of memory",
            f"{human(free)} are available",
            "close other programs, raise the container's limit, or calibrate on fewer tokens (--blocks)",
        )
    while not folder.exists():
        folder = folder.parent
    left = shutil.disk_usage(folder).free
    if needs.disk > left:
        raise ResourceError(
            f"this run needs about {human(needs.disk)} of disk in {folder}",
            f"{human(left)} are free",
            "free some, or choose another folder with --work-dir",
        )
