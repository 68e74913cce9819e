"""`rarefy plan`: what a run would make and take, without running it."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.errors import UsageError
from rarefy.evidence import Evidence
from rarefy.files.journal import WorkFolder
from rarefy.model import Model
from rarefy.opening import open_model
from rarefy.plan import predict
from rarefy.plan.budget import budget, stepped
from rarefy.plan.compress import Journaled, recipe_of
from rarefy.plan.data import BLOCKS, LENGTH, calibration
from rarefy.plan.foresee import MOST_HELD, Foreseen, foresee, unseen_data
from rarefy.processes import Processes
from rarefy.progress import Progress, Silent
from rarefy.threads import numerical_threads
from rarefy.units import bpw as bits_per_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from rarefy.method import Method
    from rarefy.recipe import Recipe

LOOKED_AT: Final = 24
"""Blocks that are looked at, with those the divergence is of, however many a run would take: enough for that."""


@dataclass(frozen=True)
class Planned:
    """What a run would make and take. foreseen: None where no survey begins the recipe, which is all that tells.

    recipe: with the budget filled in, as `compress` takes it. weights: of the network. blocks: what was looked at, and
    how many a run would calibrate on.
    """

    recipe: Recipe
    needs: predict.Needs
    foreseen: Foreseen | None
    weights: int
    blocks: tuple[int, int]

    @property
    def bytes(self) -> int:
        """Of all weight files; at most so many where nothing was foreseen."""
        return self.needs.writes if self.foreseen is None else self.foreseen.bytes

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        needs, foreseen = self.needs, self.foreseen
        return {
            "bytes": self.bytes,
            "bpw": bits_per_weight(self.bytes, self.weights),
            "kl": None if foreseen is None else foreseen.nats,
            "kl_claimed": foreseen is not None and foreseen.claimed,
            "kl_rests_on": "" if foreseen is None else foreseen.rests,
            "step": None if foreseen is None else foreseen.step,
            "cpu_seconds": round(needs.seconds, 3),
            "memory": needs.memory,
            "disk": needs.disk,
            "blocks": {"looked_at": self.blocks[0], "of_a_run": self.blocks[1]},
            "recipe": self.recipe.to_toml(),
        }


def plan(
    source: str | Path | Model | nn.Module,
    recipe: Recipe | Method | Sequence[str] | None = None,
    *,
    size: str | int | None = None,
    bpw: float | None = None,
    ratio: float | None = None,
    max_kl: float | None = None,
    data: Sequence[str | Path] = (),
    eval_data: Sequence[str | Path] = (),
    blocks: int = BLOCKS,
    length: int = LENGTH,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    exclude: Sequence[str] = (),
    coder: str | None = None,
    work_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Planned:
    """Say what `compress` with these arguments would make and take. They mean what they mean there.

    Surveys the network on at most 24 blocks of the data and disturbs it with noise. work_dir: where temporary files
    lie meanwhile; left out, the system's place for them.

    Raises UsageError for what was asked wrongly, ResourceError when memory or disk do not suffice.
    """
    processes = Processes.joined(device)
    with numerical_threads(threads) as count, tempfile.TemporaryDirectory(prefix="rarefy-", dir=work_dir) as own:
        model = source if isinstance(source, Model) else open_model(source)
        limit = budget(model, size=size, bpw=bpw, ratio=ratio, max_kl=max_kl)
        made = recipe_of(recipe, tuple(exclude), coder, limit)
        read = calibration(model, data, blocks=blocks, length=length) if made.statistics else None
        inputs = None if read is None else read.inputs
        needs = predict.predict(model, made, inputs, dtype, device)
        foreseen, looked = None, 0
        if read is not None and inputs is not None:
            other = unseen_data(model, made, read, data, eval_data, length)
            unseen = None if other is None else other.inputs
            at_once = 1 if np.issubdtype(inputs.dtype, np.integer) else 64
            looked = min(len(inputs), at_once * (LOOKED_AT if unseen is None else LOOKED_AT - MOST_HELD))
            folder = Path(processes.once(lambda: own)) / "plan.work"
            work = WorkFolder(folder, "0" * 16, model.dtypes, count)
            with work if processes.first else contextlib.nullcontext():
                journal = Journaled(work, processes)
                evidence = Evidence(inputs[:looked], device, dtype, journal, progress or Silent(), processes=processes)
                foreseen = foresee(model, made, evidence, seed=seed, max_kl=max_kl, unseen=unseen)
        if foreseen is not None and max_kl is not None:
            made = stepped(made, foreseen.step)
    if limit is not None and foreseen is not None and foreseen.bytes > 1.001 * (limit.size or foreseen.bytes):
        raise UsageError(
            f"{limit.size:,} bytes are too few",
            f"with the widest step that is of use it takes about {foreseen.bytes:,}",
            "allow more, or let a method take more tensors",
        )
    return Planned(made, needs, foreseen, model.weights, (looked, 0 if inputs is None else len(inputs)))
