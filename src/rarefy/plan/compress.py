"""The run: from a network and a recipe to an artifact, whole or not at all, and again from where it was killed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.errors import UsageError
from rarefy.evidence import Evidence, Visited
from rarefy.families import outside
from rarefy.files import manifest
from rarefy.files.directory import TensorDirectory
from rarefy.files.atomic import sync_folder, writing
from rarefy.files.journal import WorkFolder
from rarefy.measure import memory
from rarefy.model import Model
from rarefy.opening import is_artifact, open_model
from rarefy.plan import predict
from rarefy.plan.data import BLOCKS, LENGTH, Calibration, calibration
from rarefy.plan.identity import run_key, versions
from rarefy.plan.write import write_artifact
from rarefy.progress import Progress, Silent
from rarefy.recipe import Recipe
from rarefy.threads import numerical_threads
from rarefy.units import bpw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from rarefy.method import Method


@dataclass(frozen=True)
class Result:
    """What a run made. bytes: of all weight files; already: the very same artifact was there before.

    left: parameters of two or more dimensions that no step coded, with the reason.
    """

    out: Path
    bytes: int
    weights: int
    bpw: float
    seconds: float
    peak_rss_bytes: int
    steps: list[dict[str, Any]]
    left: dict[str, str]
    already: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {**dataclasses.asdict(self), "out": str(self.out)}


class _Journal:
    """The walk's view of the work folder."""

    def __init__(self, work: WorkFolder) -> None:
        self._work = work

    def load(self, step: str) -> Visited | None:
        found = self._work.load(step)
        return None if found is None else Visited(*found)

    def save(self, step: str, made: Visited) -> None:
        self._work.save(step, made.codes, made.notes)

    def scratch(self, name: str) -> Path:
        return self._work.scratch(name)


@dataclass(frozen=True)
class _Run:
    """All that decides a run."""

    model: Model
    recipe: Recipe
    data: Calibration | None
    settings: dict[str, Any]
    key: str


def compress(
    source: str | Path | Model | nn.Module,
    out: str | Path,
    recipe: Recipe | Method | Sequence[str],
    *,
    data: Sequence[str | Path] = (),
    blocks: int = BLOCKS,
    length: int = LENGTH,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    exclude: Sequence[str] = (),
    work_dir: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result | predict.Needs:
    """Apply a recipe to a network and write the artifact `out`.

    source: whatever `rarefy.open` takes, or an opened model.
    recipe: a recipe, a method, or words such as "quantize.gptq:bits=4,group=64".
    data: calibration files; without them the default text for networks that read tokens.
    blocks, length: at most so many calibration blocks, of so many tokens.
    threads: of all numerical libraries (default: the cores); part of what decides the bytes.
    device, dtype: where and in what type the walk computes.
    exclude: patterns of tensors that no method touches.
    work_dir: where unfinished work is kept (default OUT.work); a run begun again goes on there.
    dry_run: only say what it would take.

    Raises UsageError for what was asked wrongly (OUT exists, unknown settings, data that do not fit), ResourceError
    when memory or disk do not suffice, FormatError for damaged input. OUT is written whole or not at all.
    """
    began = time.monotonic()
    progress = progress or Silent()
    out = Path(out)
    with numerical_threads(threads) as count:
        model = source if isinstance(source, Model) else open_model(source)
        settings = {"seed": seed, "threads": count, "device": device, "dtype": dtype}
        run = _prepare(model, _recipe(recipe, tuple(exclude)), data, blocks, length, settings)
        done = _already(out, run.key)
        if done is not None:
            return dataclasses.replace(done, seconds=time.monotonic() - began, peak_rss_bytes=memory.peak())
        needs = predict.predict(model, run.recipe, None if run.data is None else run.data.inputs.shape)
        work_root = Path(work_dir) if work_dir is not None else out.with_name(out.name + ".work")
        predict.check(needs, work_root)
        if dry_run:
            return needs
        _writable(out)
        result = _run(run, out, work_root, count, progress)
    return dataclasses.replace(result, seconds=time.monotonic() - began, peak_rss_bytes=memory.peak())


def _recipe(recipe: Recipe | Method | Sequence[str], exclude: tuple[str, ...]) -> Recipe:
    from rarefy.method import Method, PerTensor

    if isinstance(recipe, Method):
        recipe = recipe if isinstance(recipe, Recipe) else Recipe((recipe,))
    else:
        recipe = Recipe.from_arguments(recipe)
    if not recipe.methods:
        raise UsageError("the recipe is empty", remedy="name a method, such as -m quantize.gptq:bits=4,group=64")
    if not exclude:
        return recipe
    methods = [
        dataclasses.replace(m, exclude=(*m.exclude, *exclude)) if isinstance(m, PerTensor) else m
        for m in recipe.methods
    ]
    return Recipe(tuple(methods))


def _prepare(
    model: Model, recipe: Recipe, files: Sequence[str | Path], blocks: int, length: int, settings: dict[str, Any]
) -> _Run:
    data = calibration(model, files, blocks=blocks, length=length) if recipe.statistics else None
    digest = "" if data is None else hashlib.sha256(data.inputs.tobytes() + data.name.encode()).hexdigest()
    return _Run(model, recipe, data, settings, run_key(model, recipe, digest, settings))


def _already(out: Path, key: str) -> Result | None:
    """The finished identical artifact, None when `out` is free. Raises UsageError for any other OUT."""
    if not out.exists():
        return None
    if out.is_dir() and is_artifact(out):
        sections = manifest.read(out)
        if sections.get("run", {}).get("key") == key:
            return _result(out, int(sections["model"]["weights"]), sections, already=True)
        raise UsageError(
            f"{out} exists and was made from other inputs or settings", remedy="choose another output, or remove it"
        )
    if out.is_dir() and not any(out.iterdir()):
        return None
    raise UsageError(f"{out} exists", remedy="choose another output, or remove it")


def _writable(out: Path) -> None:
    """Fail before hours of work, not after them."""
    probe = out.with_name(f".{out.name}.probe")
    with writing(out):
        probe.write_bytes(b"")
        probe.unlink()


def _run(run: _Run, out: Path, work_root: Path, threads: int, progress: Progress) -> Result:
    settings = run.settings
    with WorkFolder(work_root, run.key, run.model.dtypes, threads) as work:
        evidence = Evidence(
            None if run.data is None else run.data.inputs,
            device=settings["device"],
            dtype=settings["dtype"],
            journal=_Journal(work),
            progress=progress,
        )
        made = run.recipe.apply(run.model, evidence, seed=settings["seed"])
        sections = _sections(run, made)
        fresh = work.root / "out"
        shutil.rmtree(fresh, ignore_errors=True)
        write_artifact(made, fresh, run.recipe, sections, work.root / "records", threads, progress)
        with writing(out):
            if out.is_dir():
                out.rmdir()
            _move(fresh, out)
        result = _result(out, made.weights, manifest.read(out))
        work.discard()
    return result


def _move(fresh: Path, out: Path) -> None:
    """Rename into place; across file systems, copy beside it first, so that OUT still appears at once."""
    try:
        os.rename(fresh, out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = out.with_name(f".{out.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(fresh, beside)
        os.rename(beside, out)
    sync_folder(out.parent)


def _sections(run: _Run, made: Model) -> dict[str, Any]:
    held = list(run.model.sections.get("calibration", []))
    original = run.model.sections.get("original") or {"bytes": predict.model_bytes(run.model)}
    return {
        "model": {**made.skeleton.describe(), "weights": made.weights, "outside": _outside(made)},
        "original": original,
        "recipe": run.recipe.to_toml(),
        "history": [dataclasses.asdict(step) for step in made.history],
        "calibration": held + ([run.data.section()] if run.data else []),
        "run": {"key": run.key, **run.settings, "versions": versions()},
    }


def _outside(model: Model) -> dict[str, str]:
    """Matrices that no method can see: key -> why."""
    keys = model.keys
    unknown = outside(model.skeleton.empty, model.skeleton.ties)
    return {keys[name]: f"a parameter of {kind}, which is not understood" for name, kind in unknown.items()}


def _result(out: Path, weights: int, sections: dict[str, Any], already: bool = False) -> Result:
    total = TensorDirectory(out).size
    steps = [
        {
            "method": step["method"],
            "settings": step["settings"],
            "coded": len(step["damage"]),
            "worst": max(step["damage"].items(), key=lambda item: item[1], default=None),
        }
        for step in sections["history"]
    ]
    coded = {name for step in sections["history"] for name in step["damage"]}
    left = {
        name: why for step in sections["history"] for name, why in step["untouched"].items() if name not in coded
    } | sections["model"].get("outside", {})
    return Result(out, total, weights, bpw(total, weights), 0.0, 0, steps, left, already)
