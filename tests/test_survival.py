"""`compress` is killed, starved of disk and memory, finds its work damaged: the same call again ends in the same bytes.

The kills are those of bench/kill.py, which does hundreds, and at every operation that changes the file system.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rarefy.errors import RarefyError, ResourceError
from rarefy.files.journal import WorkFolder
from rarefy.measure import memory
from rarefy.plan import predict

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "bench"), str(Path(__file__).parent / "plan")]

from runs import digest, make_llama, run  # noqa: E402

from kill import count_coding  # noqa: E402 - the line above finds it


def kills(folder: Path, *arguments: str) -> dict[str, Any]:
    result = folder / "result.json"
    command = [sys.executable, "bench/kill.py", "--folder", str(folder), "--json", str(result), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert result.exists(), done.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def test_killed_at_random_moments(tmp_path: Path) -> None:
    found = kills(tmp_path, "--random", "15")["random"]
    assert found["kills"] >= 15 and found["wrong"] == []
    # What a kill costs is at most the segment that was at work.
    assert found["most_coded_again_per_kill"] <= 14


def test_killed_at_and_failing_at_any_operation(tmp_path: Path) -> None:
    found = kills(tmp_path, "--layers", "2", "--step", "14", "--systematic", "--full")
    assert found["operations"] > 50
    assert found["systematic"]["kills"] >= 5 and found["systematic"]["wrong"] == []
    assert found["full"]["failures"] >= 2 and found["full"]["wrong"] == []


class Stop(BaseException):
    """As a kill: nothing handles it."""


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rarefy.evidence.evidence.TOKENS_PER_BATCH", 64)
        yield


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("network") / "llama", layers=4)


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    file = tmp_path_factory.mktemp("data") / "ids.npz"
    np.savez(file, x=np.random.default_rng(0).integers(0, 64, (12, 16)))  # three micro-batches
    return file


@pytest.fixture(scope="module")
def expected(llama: Path, ids: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected") / "out"
    run(llama, out, ids)
    return digest(out)


def stopped(llama: Path, ids: Path, out: Path, segments: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped before segment number `segments` is kept; its folder in the work folder."""
    save = WorkFolder.save

    def few(work: WorkFolder, step: str, *rest: Any) -> Any:
        if int(step[-4:]) == segments:
            raise Stop
        return save(work, step, *rest)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(WorkFolder, "save", few)
        run(llama, out, ids)
    (folder,) = (path for path in out.with_name(out.name + ".work").iterdir() if path.is_dir())
    return folder


def coded_by(function: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many matrices a call codes."""
    log = folder / "coded.log"
    from rarefy import joint

    with monkeypatch.context() as patched:
        patched.setattr(joint, "encode", joint.encode)  # put back afterwards
        count_coding(log)
        function()
    return log.stat().st_size


@pytest.mark.parametrize("damage", ["none", "step", "spool", "spool gone", "sums", "all spools and the last step"])
def test_damaged_work_is_done_again(
    damage: str, llama: Path, ids: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(llama, ids, tmp_path / "out", 3, monkeypatch)
    steps = sorted(folder.glob("*.step"))
    spools = [sums.parent for sums in sorted((folder / "scratch").glob("*/sums.json"))]
    assert len(steps) == 3 and spools
    value, sums = spools[-1] / "1.npy", spools[-1] / "sums.json"
    again = 2  # blocks of four
    if damage == "step":
        steps[1].write_bytes(steps[1].read_bytes()[:-100])
        again = 4
    elif damage == "spool":
        value.write_bytes(value.read_bytes()[:-1])
    elif damage == "spool gone":
        shutil.rmtree(spools[-1])
    elif damage == "sums":
        sums.write_text("[1, 2")
    elif damage != "none":
        shutil.rmtree(folder / "scratch")
        steps[2].write_bytes(b"")
        again = 3
    count = coded_by(lambda: run(llama, tmp_path / "out", ids), tmp_path, monkeypatch)
    assert count == 2 * (7 * again + 1)  # seven matrices a block and the head, for each method
    assert digest(tmp_path / "out") == expected
    assert not (tmp_path / "out.work").exists()


def test_a_flipped_bit_in_any_work_file(
    llama: Path, ids: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(llama, ids, tmp_path / "out", 3, monkeypatch)
    shutil.copytree(folder.parent, tmp_path / "kept")
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) >= 7
    for file in files[:: len(files) // 4]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(tmp_path / "kept", folder.parent, dirs_exist_ok=True)
        data = bytearray((folder / file).read_bytes())
        data[len(data) * 2 // 3] ^= 4
        (folder / file).write_bytes(data)
        run(llama, tmp_path / "out", ids)
        assert digest(tmp_path / "out") == expected, file


# ---- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that tests make as large as they like."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk(
    small_disk: Path, llama: Path, ids: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "check", lambda *_: None)  # it would refuse beforehand, as it should
    failures = set()
    size = 16
    while True:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(small_disk)], check=True)
        try:
            run(llama, small_disk / "out", ids)
            break
        except ResourceError as error:
            failures.add(str(error).partition(":")[0].rpartition("/")[2])
            assert "the disk is full" in str(error) and "\n" not in str(error)
            assert not (small_disk / "out").exists()
        size += 24
    assert len(failures) >= 3, failures
    assert digest(small_disk / "out") == expected
    assert [path.name for path in small_disk.iterdir()] == ["out"]


def test_too_little_disk_is_said_before(small_disk: Path, llama: Path, ids: Path) -> None:
    with pytest.raises(ResourceError, match=r"needs about .* of disk in .*; free some") as error:
        run(llama, small_disk / "out", ids)
    assert "\n" not in str(error.value)
    assert not any(small_disk.iterdir())


def test_disk_of_an_unfinished_run_counts_as_there(
    llama: Path, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(llama, ids, tmp_path / "out", 3, monkeypatch)
    needs = run(llama, tmp_path / "out", ids, dry_run=True)
    held = sum(path.stat().st_size for path in (tmp_path / "out.work").rglob("*"))
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=needs.disk - held // 2))
    run(llama, tmp_path / "out", ids, dry_run=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=needs.disk - 2 * held))
    with pytest.raises(ResourceError, match="of disk"):
        run(llama, tmp_path / "out", ids)


# ---- memory


def test_too_little_memory_is_said_before(
    llama: Path, ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = run(llama, tmp_path / "out", ids, dry_run=True)
    monkeypatch.setattr(memory, "available", lambda: needs.memory - 1)
    with pytest.raises(ResourceError, match=r"needs about .* of memory: .* are available; .*--blocks") as error:
        run(llama, tmp_path / "out", ids)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(memory, "available", lambda: needs.memory)
    run(llama, tmp_path / "out", ids)


def limited(model: Path, ids: Path, out: Path) -> None:
    """Run with an address space that has no room left for this run. Leaves the process."""
    limit = memory.resident() + int((memory._PROC / "self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        needs = run(model, out, ids, dry_run=True)
        resource.setrlimit(resource.RLIMIT_AS, (limit - memory.available() + needs.memory // 2, limit))
        run(model, out, ids)
    except RarefyError as error:
        os._exit(7 if isinstance(error, ResourceError) and "of memory" in str(error) else 8)
    os._exit(9)


def test_a_limit_of_the_process_counts(llama: Path, ids: Path, tmp_path: Path) -> None:
    if not memory._PROC.is_dir():
        pytest.skip("there is no /proc")
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path[-2:]]!r}\n"
        "from pathlib import Path\nimport test_survival\n"
        f"test_survival.limited(*map(Path, {[str(llama), str(ids), str(tmp_path / 'out')]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert not any(tmp_path.iterdir())
