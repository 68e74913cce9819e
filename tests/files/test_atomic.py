"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from rarefy.errors import ResourceError
from rarefy.files.atomic import canonical_json, replace_file, write_bytes, write_json

if TYPE_CHECKING:
    from pathlib import Path


def test_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_not_at_all(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    with pytest.raises(KeyError), replace_file(tmp_path / "a") as file:
        file.write(b"tw")
        raise KeyError
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"half of something long")
    write_bytes(tmp_path / "a", b"one")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"one")]


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission"), (errno.EROFS, "read-only"), (errno.EIO, "error")],
)
def test_errors_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match=f"cannot write .*a: .*{why}"):
        write_bytes(tmp_path / "a", b"one")
    assert list(tmp_path.iterdir()) == []


def test_folder_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="folder does not exist"):
        write_bytes(tmp_path / "b" / "a", b"")


def test_canonical(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": [1, 0.1], "a": "ü"})
    assert (tmp_path / "a").read_bytes() == b'{\n "a": "\\u00fc",\n "b": [\n  1,\n  0.1\n ]\n}\n'
    assert canonical_json(json.loads((tmp_path / "a").read_bytes())) == (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("inf"))
