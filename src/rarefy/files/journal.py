"""The work folder of a run: a lock, and every finished step, so that a killed run goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from rarefy.errors import ResourceError, UsageError
from rarefy.files import record
from rarefy.files.atomic import canonical_json, replace_file, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rarefy.codes import Code

_KEY: Final = re.compile(r"[0-9a-f]{16}")
_SIZE: Final = 8
_DIGEST: Final = 32
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Kept:
    """A finished step on disk: its notes in memory, its codes read when asked for.

    The file holds the records, a JSON table of where they are with the notes, the table's size (8 bytes, little
    endian) and the SHA-256 of all before it.
    """

    path: Path
    places: Mapping[str, tuple[int, int]]
    shapes: Mapping[str, tuple[int, ...]]
    notes: dict[str, Any]
    threads: int = 1

    def record(self, name: str) -> bytes:
        """A code's record. Raises ResourceError."""
        start, size = self.places[name]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise ResourceError(f"cannot read {self.path}", error.strerror or "") from error

    def code(self, name: str) -> Code:
        """One of the step's codes. Raises FormatError when it is damaged, ResourceError."""
        return record.decode(self.record(name), self.threads)[0]


class WorkFolder:
    """`OUT.work`, held by one process at a time; within it a folder per key (a hash of all that decides the result).

    What runs with other settings left unfinished stays until one run on this OUT has finished. Only what a work
    folder makes itself is ever removed: the user may have named a folder that holds other things.
    """

    def __init__(self, folder: Path, key: str, dtypes: Mapping[str, str], threads: int = 1) -> None:
        self.folder, self.key, self.dtypes, self.threads = folder, key, dtypes, threads
        self.root = folder / key[:16]
        self._lock = -1

    def __enter__(self) -> WorkFolder:
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(
                f"{self.folder} is a file",
                "unfinished work is kept in a folder of that name",
                "move it, or choose another place with --work-dir",
            )
        with writing(self.folder):
            self._acquire()
            self.root.mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def _acquire(self) -> None:
        """Hold the lock file that stands there now, not one that a finishing run has just removed."""
        path = self.folder / "lock"
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue  # a finishing run has just removed the folder
            try:
                # Released by the kernel when the process ends, however it ends.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(self._lock), path.stat()):
                    return
            except BlockingIOError:
                os.close(self._lock)
                raise UsageError(
                    f"{self.folder} is in use by another run", remedy="wait for it, or choose another output"
                ) from None
            except BaseException:
                os.close(self._lock)
                raise
            os.close(self._lock)

    def scratch(self, name: str) -> Path:
        """A folder for temporary data, by name; not made yet."""
        return self.root / "scratch" / name

    def size(self) -> int:
        """Bytes that this key's unfinished work takes now."""
        found = 0
        for path in self.root.rglob("*"):
            with contextlib.suppress(OSError):
                found += path.stat().st_size
        return found

    def save(
        self, step: str, codes: Mapping[str, Code], notes: dict[str, Any], records: Mapping[str, bytes] | None = None
    ) -> Kept:
        """Keep a finished step, whole or not at all. records: those made already. Raises ResourceError."""
        path = self._path(step)
        places: dict[str, tuple[int, int]] = {}
        with replace_file(path) as file:
            sha, at = hashlib.sha256(), 0
            for name in sorted(codes):
                data = (records or {}).get(name)
                if data is None:
                    data = self._record(name, codes[name])
                places[name] = at, len(data)
                at += _write(file, sha, data)
            shapes = {name: codes[name].shape for name in places}
            table = canonical_json({"places": places, "shapes": shapes, "notes": notes})
            _write(file, sha, table)
            _write(file, sha, len(table).to_bytes(_SIZE, "little"))
            file.write(sha.digest())
        # As it is read back: sums over notes in another order differ in their last bits.
        return self._kept(path, json.loads(table))

    def _record(self, name: str, code: Code) -> bytes:
        """As an artifact would hold it; of small ones that none will, as they are: they are read once and gone."""
        passing = name not in self.dtypes and math.prod(code.shape) <= record.SMALL
        return record.encode(code, self.dtypes.get(name, "F32"), "raw" if passing else None, self.threads)

    def load(self, step: str) -> Kept | None:
        """A finished step; None where there is none or it is damaged, so that it is done again."""
        path = self._path(step)
        try:
            with path.open("rb") as file:
                end = _proven(file)
                file.seek(end - _SIZE)
                start = end - _SIZE - int.from_bytes(file.read(_SIZE), "little")
                file.seek(start)
                table = json.loads(file.read(end - _SIZE - start))
        except (OSError, ValueError):
            return None
        return self._kept(path, table)

    def _kept(self, path: Path, table: dict[str, Any]) -> Kept:
        places = {name: (int(at), int(size)) for name, (at, size) in table["places"].items()}
        shapes = {name: tuple(shape) for name, shape in table["shapes"].items()}
        return Kept(path, places, shapes, table["notes"], self.threads)

    def discard(self) -> None:
        """Remove all unfinished work, of other settings too: the run is done."""
        for path in sorted(self.folder.iterdir()):
            if _KEY.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / "lock").unlink()
            self.folder.rmdir()

    def _path(self, step: str) -> Path:
        return self.root / f"{step}.step"


def _write(file: IO[bytes], sha: Any, data: bytes) -> int:
    sha.update(data)
    return file.write(data)


def _proven(file: IO[bytes]) -> int:
    """Where the digest of a whole file begins. Raises ValueError when it is another file's."""
    end = file.seek(0, os.SEEK_END) - _DIGEST
    if end < _SIZE:
        raise ValueError("too short")
    file.seek(0)
    sha = hashlib.sha256()
    left = end
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise ValueError("ends early")
        sha.update(chunk)
        left -= len(chunk)
    if sha.digest() != file.read(_DIGEST):
        raise ValueError("damaged")
    return end
