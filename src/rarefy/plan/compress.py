"""The run: from a network and a recipe to an artifact, whole or not at all, and again from where it was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.errors import RarefyError, ResourceError, UsageError
from rarefy.evidence import Curvature, Evidence, Visited
from rarefy.files import manifest
from rarefy.files.journal import Kept, WorkFolder
from rarefy.measure import memory
from rarefy.model import Model
from rarefy.opening import open_model
from rarefy.plan import predict
from rarefy.plan.budget import Budget, budget, held, stepped
from rarefy.plan.data import BLOCKS, LENGTH, Calibration, calibration
from rarefy.plan.foresee import foresee, unseen_data
from rarefy.plan.identity import run_key
from rarefy.plan.output import Output
from rarefy.plan.result import Predicted, Result, result_of, sections_of
from rarefy.plan.write import Recorded, decode_seconds, write_artifact
from rarefy.processes import Processes, beside
from rarefy.progress import Progress, Silent
from rarefy.recipe import Recipe
from rarefy.threads import numerical_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from rarefy.method import Method

__all__ = ["Result", "compress"]

DEFAULT = "quantize.entropy"
"""What is done where only a budget is given."""


class Journaled:
    """The walk's view of the work folder: codes come back from disk when they are asked for.

    Of several processes the first alone writes, and says what is there; the others read it.
    """

    def __init__(self, work: WorkFolder, processes: Processes | None = None) -> None:
        self._work, self._processes = work, processes or Processes()

    def load(self, step: str) -> Visited | None:
        found = self._work.load(step) if self._processes.first else None
        there = self._processes.once(lambda: found is not None)
        return self._read(step, found) if there else None

    def save(self, step: str, made: Visited) -> Visited:
        kept = self._work.save(step, made.codes, made.notes, made.records) if self._processes.first else None
        self._processes.once(lambda: True)
        return self._read(step, kept)

    def _read(self, step: str, kept: Kept | None) -> Visited:
        """A step that the first process has."""
        kept = kept or self._work.load(step)
        if kept is None:
            raise ResourceError(
                f"process {self._processes.rank} does not see {self._work.folder}",
                "the first process keeps there what all of them go on with",
                "choose a folder that all machines share with --work-dir",
            )
        return Visited(Recorded(kept.code, kept.shapes, kept.record), kept.notes)

    def scratch(self, name: str) -> Path:
        return self._work.scratch(name)


@dataclass(frozen=True)
class _Run:
    """All that decides a run. unseen: what the divergence is predicted of, where it is not some of the data.
    settings: seed, threads, device, dtype, and the processes where they are several."""

    model: Model
    recipe: Recipe
    data: Calibration | None
    unseen: Calibration | None
    settings: dict[str, Any]
    key: str


def compress(
    source: str | Path | Model | nn.Module,
    out: str | Path,
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
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result | predict.Needs:
    """Apply a recipe to a network and write the artifact `out`.

    source: whatever `rarefy.open` takes, or an opened model.
    recipe: a recipe, a method, or words such as "quantize.gptq:bits=4,group=64"; with a budget it may be left out, and
        is quantize.entropy then.
    size, bpw, ratio: a budget, one of: bytes of all weight files (or text such as "60MB"), bits a weight of the whole
        file, times smaller than with 2 bytes a weight (networks that read tokens) or 4 (others).
    data: calibration files; without them the default text for networks that read tokens.
    eval_data: what the divergence is predicted of. Without it that is part of the data, which the survey leaves out;
        of the default text, its other part.
    blocks, length: at most so many calibration blocks, of so many tokens.
    threads: of all numerical libraries (default: the cores); part of what decides the bytes, as is the number of
        processes: under `torchrun` they share the calibration data, and the first codes and writes.
    device, dtype: where and in what type the walk computes.
    exclude: patterns of tensors that no method touches.
    coder: what the weights are written with instead of what the recipe says, by name; "archive" for the shortest of
        all, which decodes slowly. Weights that one would make longer stay raw.
    work_dir: the folder that holds `OUT.work`, where unfinished work is kept (default: OUT's own). The same call
        again goes on there; what calls with other settings left is removed when one has finished.
    dry_run: only say what it would take.

    Raises UsageError for what was asked wrongly (OUT exists, unknown settings, data that do not fit), ResourceError
    when memory or disk do not suffice, FormatError for damaged input. OUT is written whole or not at all.
    """
    began, worked = time.monotonic(), memory.cpu_seconds()
    output, processes = Output.at(out, work_dir), Processes.joined(device)
    with numerical_threads(threads) as count:
        model = source if isinstance(source, Model) else open_model(source)
        output.check_outside(model.skeleton.folder)
        settings = {"seed": seed, "threads": count, "device": device, "dtype": dtype}
        limit = budget(model, size=size, bpw=bpw, ratio=ratio, max_kl=max_kl)
        given = recipe_of(recipe, tuple(exclude), coder, limit)
        if max_kl is not None:
            settings["max_kl"] = max_kl
        if processes.world > 1:
            settings["processes"] = processes.world
        run = _prepare(model, given, data, eval_data, blocks, length, settings)
        if len(set(processes.gather(run.key))) > 1:
            raise UsageError("the processes of this run differ in their network, data, settings or versions")
        work = WorkFolder(output.work, run.key, model.dtypes, count)
        result = _already(run, output, work, processes)
        if result is None:
            output.check_writable()
            needs = predict.predict(model, run.recipe, None if run.data is None else run.data.inputs, dtype, device)
            predict.check(needs, output, work.size(), beside())
            if dry_run:
                return needs
            held_before = memory.resident()
            result = _run(run, output, work, progress or Silent(), processes)
            result = dataclasses.replace(result, predicted=_predicted(output, needs, held_before))
    return dataclasses.replace(
        result,
        seconds=time.monotonic() - began,
        cpu_seconds=memory.cpu_seconds() - worked,
        peak_rss_bytes=memory.peak(),
    )


def _predicted(output: Output, needs: predict.Needs, before: int) -> Predicted:
    """What was said of a run that has been done now. before: bytes resident when it began."""
    foreseen = manifest.read(output.path).get("predicted", {})
    return Predicted(foreseen.get("bytes"), foreseen.get("nats"), before + needs.memory, needs.seconds)


def recipe_of(
    recipe: Recipe | Method | Sequence[str] | None, exclude: tuple[str, ...], coder: str | None, limit: Budget | None
) -> Recipe:
    """What was given as a recipe, with what was said beside it."""
    from rarefy.method import Latent, Method, PerTensor

    if recipe is None:
        recipe = [] if limit is None else [DEFAULT]
    if isinstance(recipe, Method):
        recipe = recipe if isinstance(recipe, Recipe) else Recipe((recipe,))
    else:
        recipe = Recipe.from_arguments([recipe] if isinstance(recipe, str) else recipe)
    if not recipe.methods:
        raise UsageError("the recipe is empty", remedy="name a method, such as -m quantize.gptq:bits=4,group=64")
    methods = [
        dataclasses.replace(m, exclude=(*m.exclude, *exclude)) if isinstance(m, PerTensor | Latent) else m
        for m in recipe.methods
    ]
    made = Recipe(tuple(methods), coder or recipe.coder)
    return made if limit is None else held(made, limit)


def _prepare(
    model: Model,
    recipe: Recipe,
    files: Sequence[str | Path],
    eval_files: Sequence[str | Path],
    blocks: int,
    length: int,
    settings: dict[str, Any],
) -> _Run:
    data = calibration(model, files, blocks=blocks, length=length) if recipe.statistics else None
    unseen = None if data is None else unseen_data(model, recipe, data, files, eval_files, length)
    decides = settings if unseen is None else {**settings, "unseen": unseen.section()}
    return _Run(model, recipe, data, unseen, settings, run_key(model, recipe, data, decides))


def _already(run: _Run, output: Output, work: WorkFolder, processes: Processes) -> Result | None:
    """The result when the very artifact stands at OUT. Raises UsageError when another one does."""
    sections = output.finished(run.key)
    if sections is None:
        return None
    if processes.first and work.folder.is_dir():
        # Left by a kill after OUT was there; whoever works in it at the moment does this himself.
        with contextlib.suppress(RarefyError), work:
            work.discard()
    return result_of(output, sections, already=True)


def _run(run: _Run, output: Output, work: WorkFolder, progress: Progress, processes: Processes) -> Result:
    with work if processes.first else contextlib.nullcontext():
        # Another run may have finished between the first look at OUT and the lock.
        sections = processes.once(lambda: output.finished(run.key))
        result = None if sections is None else result_of(output, sections, already=True)
        if result is None:
            result = _made(run, output, work, progress, processes)
        if processes.first:
            work.discard()
    return result


def _made(run: _Run, output: Output, work: WorkFolder, progress: Progress, processes: Processes) -> Result:
    """Apply the recipe, which all processes do, and write what it made, which the first does."""
    settings = run.settings
    evidence = Evidence(
        None if run.data is None else run.data.inputs,
        device=settings["device"],
        dtype=settings["dtype"],
        journal=Journaled(work, processes),
        progress=progress,
        labels=None if run.data is None else run.data.labels,
        processes=processes,
    )
    recipe, foreseen = run.recipe, None
    if Curvature() in recipe.statistics:
        unseen = None if run.unseen is None else run.unseen.inputs
        limit = settings.get("max_kl")
        foreseen = foresee(run.model, recipe, evidence, seed=settings["seed"], max_kl=limit, unseen=unseen)
        if foreseen is not None and "max_kl" in settings:
            recipe = stepped(recipe, foreseen.step)
    made = recipe.apply(run.model, evidence, seed=settings["seed"])

    def write() -> dict[str, Any]:
        fresh = work.root / "out"
        sections = sections_of(run.model, made, recipe, run.data, {"key": run.key, **settings}, foreseen)
        write_artifact(made, fresh, recipe, sections, work.scratch("records"), settings["threads"], progress)
        try:
            output.put(fresh)
        except ResourceError:
            # A run with another work folder may have been faster.
            if output.finished(run.key) is None:
                raise
        return manifest.read(output.path)

    result = result_of(output, processes.once(write))
    if run.recipe.coder is not None and processes.first:
        result = dataclasses.replace(result, decode_seconds=decode_seconds(output.path, settings["threads"]))
    return result
