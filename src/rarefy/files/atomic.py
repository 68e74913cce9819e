"""Files appear whole or not at all: written beside their place, synced, then renamed over it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rarefy.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHY = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EACCES: ("permission denied", "change its permissions or choose another folder"),
    errno.EPERM: ("permission denied", "change its permissions or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOENT: ("its folder does not exist", "make the folder or choose another one"),
    errno.ENOTDIR: ("its folder is a file", "choose another folder"),
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing `path` into a ResourceError that says why and what to do."""
    try:
        yield
    except OSError as error:
        why, remedy = _WHY.get(error.errno or 0, (error.strerror or type(error).__name__, ""))
        raise ResourceError(f"cannot write {path}", why, remedy) from error


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends, and vanishes when it fails.

    The temporary is `.NAME.part` in the same folder; what a killed process left there is overwritten.

    Raises ResourceError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path, outside: Path | None = None) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends, and vanishes when it fails.

    outside: a folder that it must not be in. Raises UsageError when `folder` exists or is in there, ResourceError
    when it cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists", remedy="choose another output, or remove it")
    if outside is not None and outside.resolve() in folder.resolve().parents:
        raise UsageError(f"{folder} lies inside {outside}", "all that is in there is carried along", "choose another")
    fresh = folder.with_name(f".{folder.name}.part")
    with writing(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    try:
        yield fresh
        with writing(folder):
            fresh.rename(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; the rename itself has happened.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """The file `path` with content `data`, whole or not at all. Raises ResourceError."""
    with replace_file(path) as file:
        file.write(data)


def canonical_json(value: Any) -> bytes:
    """The one serialisation of `value`: keys sorted, indent 1, ASCII, no NaN, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`value` as canonical JSON, whole or not at all. Raises ResourceError."""
    write_bytes(path, canonical_json(value))
