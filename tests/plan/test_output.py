"""What may stand at OUT, and what becomes of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import RECIPE, digest, run

import rarefy
from rarefy.errors import RarefyError, ResourceError, UsageError
from rarefy.files.journal import WorkFolder
from rarefy.plan.output import Output


def line(error: pytest.ExceptionInfo[Any]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def test_the_same_call_again_is_already_done(llama: Path, ids: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    first = run(llama, tmp_path / "out", ids)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run(llama, tmp_path / "out", ids)
    assert (first.already, again.already) == (False, True)
    same = {"seconds": 0, "cpu_seconds": 0, "peak_rss_bytes": 0, "predicted": None, "already": True}
    assert {**again.to_json(), **same} == {**first.to_json(), **same}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    assert digest(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(llama: Path, ids: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    (tmp_path / "out").mkdir()
    run(llama, tmp_path / "out", ids)
    assert digest(tmp_path / "out") == expected


def test_an_empty_folder_behind_a_link_is_filled(llama: Path, ids: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    run(llama, tmp_path / "out", ids)
    assert (tmp_path / "real" / "manifest.json").is_file()
    assert (tmp_path / "out").is_symlink()


def test_out_may_be_the_folder_one_is_in(
    llama: Path, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    run(llama, Path(), ids)
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_another_artifact_is_refused(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "out", ids)
    before = digest(tmp_path / "out")
    with pytest.raises(UsageError, match="made from other inputs or settings") as error:
        run(llama, tmp_path / "out", ids, seed=1)
    assert "remove it" in line(error)
    assert digest(tmp_path / "out") == before
    assert not (tmp_path / "out.work").exists()


def test_a_damaged_artifact_is_no_finished_one(llama: Path, ids: Path, tmp_path: Path) -> None:
    run(llama, tmp_path / "out", ids)
    side = tmp_path / "out" / "notes" / "about.txt"
    side.write_text("another one\n")
    with pytest.raises(UsageError, match="about.txt") as error:
        run(llama, tmp_path / "out", ids)
    assert "damaged" in line(error)


@pytest.mark.parametrize("what", ["a file", "a folder", "the network", "an artifact cut short"])
def test_what_stands_at_out_is_left_alone(what: str, llama: Path, ids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    elif what == "a folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    elif what == "the network":
        shutil.copytree(llama, out)
    else:
        run(llama, out, ids)
        weights = out / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    before = {"": out.read_text()} if out.is_file() else digest(out)
    with pytest.raises(UsageError, match="out ") as error:
        run(out if what == "the network" else llama, out, ids)
    line(error)
    assert ({"": out.read_text()} if out.is_file() else digest(out)) == before


@pytest.mark.parametrize("place", ["missing/out", "file/out", "/proc/out", "/proc/self/out"])
def test_out_that_cannot_be_made(place: str, llama: Path, ids: Path, tmp_path: Path) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write") as error:
        run(llama, tmp_path / place, ids)
    assert ";" in line(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("place", ["llama/out", "llama/notes/out", "llama/../llama/out", "link/out"])
def test_out_inside_the_network(place: str, llama: Path, ids: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "llama")
    (tmp_path / "link").symlink_to("llama")
    before = digest(tmp_path / "llama")
    with pytest.raises(UsageError, match="inside") as error:
        run(tmp_path / "llama", tmp_path / place, ids)
    line(error)
    with pytest.raises(UsageError, match="inside"):
        run(tmp_path / "llama", tmp_path / "out", ids, work_dir=tmp_path / Path(place).parent)
    assert digest(tmp_path / "llama") == before


def test_the_work_folder_is_a_file(llama: Path, ids: Path, tmp_path: Path) -> None:
    (tmp_path / "out.work").write_text("mine")
    with pytest.raises(UsageError, match="out.work is a file") as error:
        run(llama, tmp_path / "out", ids)
    assert "--work-dir" in line(error)
    assert (tmp_path / "out.work").read_text() == "mine"


def test_a_work_folder_keeps_what_is_not_its_own(llama: Path, ids: Path, tmp_path: Path) -> None:
    """--work-dir names a folder of the user's: only what the run made is removed from it."""
    mine = tmp_path / "scratch" / "mine.txt"
    inside = tmp_path / "scratch" / "out.work" / "mine.txt"
    inside.parent.mkdir(parents=True)
    mine.write_text("mine")
    inside.write_text("mine")
    run(llama, tmp_path / "out", ids, work_dir=tmp_path / "scratch")
    assert sorted(path.relative_to(tmp_path / "scratch").as_posix() for path in mine.parent.rglob("*")) == [
        "mine.txt",
        "out.work",
        "out.work/mine.txt",
    ]


def test_two_runs_on_one_out(llama: Path, ids: Path, tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "out.work", "0" * 64, {}), pytest.raises(UsageError, match="in use") as error:
        run(llama, tmp_path / "out", ids)
    assert "another run" in line(error)
    run(llama, tmp_path / "out", ids)
    assert not (tmp_path / "out.work").exists()


def test_a_run_with_another_work_folder_was_faster(
    llama: Path, ids: Path, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Output.put
    busy = []

    def late(output: Output, fresh: Path) -> None:
        if not busy:
            busy.append(fresh)
            run(llama, tmp_path / "out", ids, work_dir=tmp_path / "other")
        put(output, fresh)

    monkeypatch.setattr(Output, "put", late)
    run(llama, tmp_path / "out", ids)
    assert digest(tmp_path / "out") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_work_of_other_settings_stays_until_a_run_has_finished(
    llama: Path, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Output, "put", stop)
        for seed in (0, 1):
            with pytest.raises(KeyboardInterrupt):
                run(llama, tmp_path / "out", ids, seed=seed)
    kept = [path.name for path in (tmp_path / "out.work").iterdir() if path.is_dir()]
    assert len(kept) == 2
    run(llama, tmp_path / "out", ids, seed=0)
    assert not (tmp_path / "out.work").exists()


def test_what_a_kill_after_the_rename_left_is_cleared(
    llama: Path, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, "discard", stop)
        with pytest.raises(KeyboardInterrupt):
            run(llama, tmp_path / "out", ids)
    assert (tmp_path / "out.work").exists()
    assert run(llama, tmp_path / "out", ids).already
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_file_system(llama: Path, ids: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev or not os.access(shm, os.W_OK):
        pytest.skip("there is no second file system")
    work = shm / f"rarefy-test-{os.getpid()}"
    work.mkdir()
    try:
        run(llama, tmp_path / "out", ids, work_dir=work)
        assert not any(work.iterdir())
    finally:
        shutil.rmtree(work)
    assert digest(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_dry_run_writes_nothing(llama: Path, ids: Path, tmp_path: Path) -> None:
    needs = run(llama, tmp_path / "out", ids, dry_run=True)
    assert min(needs.memory, needs.disk, needs.reads, needs.writes) > 0
    assert not any(tmp_path.iterdir())
    written = run(llama, tmp_path / "out", ids)
    assert written.bytes <= needs.writes


def test_errors_leave_nothing_at_out(llama: Path, ids: Path, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = [{"dtype": "int3"}, {"threads": 0}, {"recipe": []}, {"recipe": ["quantize.magic"]}]
    for more in calls:
        with pytest.raises(RarefyError) as error:
            rarefy.compress(llama, tmp_path / "out", **{"recipe": RECIPE, "data": [ids], **more})
        line(error)
    assert not any(tmp_path.iterdir())
