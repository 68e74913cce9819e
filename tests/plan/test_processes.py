"""torchrun: processes that share the data see what one sees, write one artifact, and fail and go on together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import digest, run

from rarefy.cli.guard import guarded
from rarefy.codes import Dense
from rarefy.evidence import Curvature, Evidence, SecondMoment, Visited, survey, walk
from rarefy.evidence.spool import Spool
from rarefy.files.journal import WorkFolder
from rarefy.plan.compress import Journaled
from rarefy.processes import Processes

NETWORKS = ("llama_tied", "bert", "torch_resnet", "chain")


def launched(*words: object) -> subprocess.CompletedProcess[str]:
    """Two processes at one command."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # where `tiny` is
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=900, env=environment)


def statistics(name: str, folder: Path, processes: Processes) -> dict[str, np.ndarray]:
    """What a walk over coded segments and a survey see, in the first process."""
    seen: dict[str, np.ndarray] = {}

    def visit(sites, made):
        for site in sites:
            if SecondMoment() in site.statistics:
                moment = site.statistics[SecondMoment()]
                seen[f"{site.name} {len(site.statistics)} s"] = moment.s
                seen[f"{site.name} {len(site.statistics)} count"] = np.array(moment.count)
            for k, use in enumerate(site.statistics.get(Curvature(), ())):
                seen[f"{site.name} rows {k}"], seen[f"{site.name} metric {k}"] = use.rows, use.moment.s
        return Visited({site.name: Dense.of(np.round(site.code.decode(), 1)) for site in sites})

    model = tiny.opened(name)
    work = WorkFolder(folder / name, "0" * 16, model.dtypes)
    if processes.first:
        work.__enter__()
    processes.gather(0)
    given = Evidence(tiny.inputs(name, 7), journal=Journaled(work, processes), processes=processes)
    walk(model, given, frozenset({SecondMoment()}), visit, "walk")
    survey(model, given, visit, "survey", seed=3)
    return seen


def small_batches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rarefy.evidence.evidence.TOKENS_PER_BATCH", 48)
    patch.setattr("rarefy.evidence.evidence.IMAGES_PER_BATCH", 4)


def worker(folder: Path) -> None:
    """One of two processes: the statistics of all networks, then a compression in which the second one's disk fills."""
    processes = Processes.joined()
    with pytest.MonkeyPatch.context() as patch:
        small_batches(patch)
        for name in NETWORKS:
            seen = statistics(name, folder / "work", processes)
            if processes.first:
                np.savez(folder / f"{name}.npz", **seen)
    append = Spool.append

    def full(self: Spool, value: torch.Tensor) -> None:
        if processes.rank == 1 and "walk0-0001" in self.folder.name:
            raise OSError(28, "No space left on device", str(self.folder))
        append(self, value)

    Spool.append = full  # type: ignore[method-assign]
    sys.exit(guarded(lambda: run(folder / "llama", folder / "out", folder / "ids.npz", ENTROPY, blocks=BLOCKS)))


BLOCKS = 600
"""Three micro-batches of a walk."""

ENTROPY = ["quantize.entropy:bits=4"]
"""With a budget, that segments coded before decide."""


@pytest.fixture(scope="module")
def failed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "llama").symlink_to(llama)
    np.savez(folder / "ids.npz", x=np.random.default_rng(0).integers(0, 64, (BLOCKS, 16)))
    return folder, launched(__file__, folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_those_of_one_process(name: str, failed, tmp_path: Path, monkeypatch) -> None:
    small_batches(monkeypatch)
    expected = statistics(name, tmp_path, Processes())
    with np.load(failed[0] / f"{name}.npz") as found:
        assert set(found) == set(expected) and len(expected) > 8
        for key, value in expected.items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-6 * scale, err_msg=key)


def test_one_that_fails_says_so_and_none_waits_for_it(failed) -> None:
    folder, done = failed
    assert done.returncode != 0 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any(line.startswith("error: process 1: ") and "space" in line for line in errors), done.stderr
    assert len(errors) <= 2 and not (folder / "out").exists() and (folder / "out.work").exists()


def compressed(folder: Path, out: str, *more: str) -> Any:
    """What the command line says of it."""
    words = [folder / "llama", folder / out, "-m", *ENTROPY, "--data", folder / "ids.npz", "--blocks", BLOCKS]
    done = launched("-m", "rarefy.cli", "compress", *words, "--threads", "1", "--json", *more)
    assert done.returncode == 0, done.stderr
    assert not (folder / f"{out}.work").exists()
    return json.loads(done.stdout)


def test_the_same_command_goes_on_to_the_same_bytes(failed) -> None:
    folder, _ = failed
    steps = {path.stem for path in (folder / "out.work").rglob("*.step")}
    assert "walk0-0001" in steps and "walk0-0002" not in steps
    again, fresh = compressed(folder, "out"), compressed(folder, "fresh")
    assert digest(folder / "out") == digest(folder / "fresh")
    assert again["bytes"] == fresh["bytes"] and again["cpu_seconds"] > 0
    assert json.loads((folder / "out" / "manifest.json").read_text())["run"]["processes"] == 2
    alone = run(folder / "llama", folder / "alone", folder / "ids.npz", ENTROPY, blocks=BLOCKS)
    assert alone.bytes == pytest.approx(fresh["bytes"], rel=0.01)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
