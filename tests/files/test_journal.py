"""The work folder: a step is there whole or not at all, damage is seen, one process holds it, codes stay on disk."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rarefy.codes import Code, Dense
from rarefy.errors import ResourceError, UsageError
from rarefy.files import record
from rarefy.files.journal import Kept, WorkFolder

KEY = "0123456789abcdef" * 4
NOTES = {"damage": [{"a": 0.1}], "untouched": [{}]}
RANDOM = np.random.default_rng(0)
CODES: dict[str, Code] = {
    "b": Dense.of(RANDOM.normal(size=(3, 5)).astype(np.float32)),
    "a": Dense.of(np.arange(7), "I64"),
    "none": Dense.of(np.zeros((0, 4), np.float32)),
}
DTYPES = {"a": "I64", "b": "F32", "none": "F32"}


def folder(path: Path, key: str = KEY) -> WorkFolder:
    return WorkFolder(path / "out.work", key, DTYPES)


def check(kept: Kept | None) -> None:
    assert kept is not None
    assert kept.notes == NOTES
    assert dict(kept.shapes) == {"a": (7,), "b": (3, 5), "none": (0, 4)}
    for name, code in CODES.items():
        assert np.array_equal(kept.code(name).decode(), code.decode())
        assert kept.record(name) == record.encode(code, DTYPES[name])


def test_a_step_comes_back(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        assert work.load("walk0-0000") is None
        check(work.save("walk0-0000", CODES, NOTES))
        check(work.load("walk0-0000"))
    with folder(tmp_path) as work:
        check(work.load("walk0-0000"))
        assert work.load("walk0-0001") is None
        assert work.size() > 0


def test_a_step_without_codes(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        work.save("step", {}, {})
        kept = work.load("step")
        assert kept is not None and not kept.shapes and kept.notes == {}


def test_codes_are_read_only_when_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder(tmp_path) as work:
        work.save("step", CODES, NOTES)
        decoded = []
        decode = record.decode
        monkeypatch.setattr(record, "decode", lambda data, threads=1: decoded.append(data) or decode(data, threads))
        kept = work.load("step")
        assert kept is not None and not decoded
        kept.code("a")
        assert len(decoded) == 1


def test_any_damage_is_seen(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        kept = work.save("step", CODES, NOTES)
        whole = kept.path.read_bytes()
        for at in range(len(whole)):
            kept.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert work.load("step") is None, at
        for size in range(len(whole)):
            kept.path.write_bytes(whole[:size])
            assert work.load("step") is None, size
        kept.path.write_bytes(whole + b"\0")
        assert work.load("step") is None
        kept.path.write_bytes(whole)
        check(work.load("step"))


def test_a_step_that_is_gone_says_so(tmp_path: Path) -> None:
    with folder(tmp_path) as work:
        kept = work.save("step", CODES, NOTES)
        kept.path.unlink()
        with pytest.raises(ResourceError, match="cannot read"):
            kept.code("a")


def test_one_process_holds_it(tmp_path: Path) -> None:
    with folder(tmp_path), pytest.raises(UsageError, match="in use"), folder(tmp_path, "f" * 64):
        pass
    with folder(tmp_path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from rarefy.files.journal import WorkFolder
with WorkFolder(Path(sys.argv[1]), "0" * 64, {}):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out.work")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="in use"), folder(tmp_path):
            pass
        holder.kill()
    with folder(tmp_path):
        pass


def test_a_lock_that_was_removed_is_none(tmp_path: Path) -> None:
    """What waits on a finished run's lock file, which is gone, must not believe that it holds the folder."""
    first = folder(tmp_path).__enter__()
    waiting = os.open(tmp_path / "out.work" / "lock", os.O_RDWR)
    first.discard()
    first.__exit__(None, None, None)
    fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with folder(tmp_path), pytest.raises(UsageError, match="in use"), folder(tmp_path):
        pass
    os.close(waiting)


def test_discard_removes_what_runs_made_and_nothing_else(tmp_path: Path) -> None:
    with folder(tmp_path, "e" * 64) as work:
        work.save("step", CODES, NOTES)
    (tmp_path / "out.work" / "mine").mkdir()
    with folder(tmp_path) as work:
        work.save("step", CODES, NOTES)
        work.discard()
    assert [path.name for path in (tmp_path / "out.work").iterdir()] == ["mine"]
    (tmp_path / "out.work" / "mine").rmdir()
    with folder(tmp_path) as work:
        work.discard()
    assert not any(tmp_path.iterdir())


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "out.work").write_text("mine")
    with pytest.raises(UsageError, match="is a file"), folder(tmp_path):
        pass
