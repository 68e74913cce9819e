"""The work folder of a run: a lock, and every finished step, so that a killed run goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.errors import FormatError, UsageError
from rarefy.files import record
from rarefy.files.atomic import canonical_json, sync_folder, write_bytes, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from rarefy.codes import Code


class WorkFolder:
    """`OUT.work`, held by one process at a time; within it a folder per key (a hash of all that decides the result).

    A step is a folder of records and notes, written under another name and renamed when whole.
    """

    def __init__(self, folder: Path, key: str, dtypes: Mapping[str, str], threads: int = 1) -> None:
        self.folder, self.key, self.dtypes, self.threads = folder, key, dtypes, threads
        self.root = folder / key[:16]
        self._lock = -1

    def __enter__(self) -> WorkFolder:
        with writing(self.folder):
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Released by the kernel when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(
                f"{self.folder} is in use by another run", remedy="wait for it, or choose another output"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def scratch(self, name: str) -> Path:
        """A folder for temporary data, by name; not made yet."""
        return self.root / "scratch" / name

    def has(self, step: str) -> bool:
        """Whether a step is finished."""
        return (self.root / step / "notes.json").is_file()

    def save(self, step: str, codes: Mapping[str, Code], notes: dict[str, Any]) -> None:
        """Keep a finished step, whole or not at all. Raises ResourceError."""
        part = self.root / f".{step}.part"
        with writing(part):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            names = sorted(codes)
            for i, name in enumerate(names):
                write_bytes(part / f"{i}.record", record.encode(codes[name], self.dtypes[name], threads=self.threads))
            write_bytes(part / "notes.json", canonical_json({"names": names, "notes": notes}))
            shutil.rmtree(self.root / step, ignore_errors=True)
            os.rename(part, self.root / step)
            sync_folder(self.root)

    def load(self, step: str) -> tuple[dict[str, Code], dict[str, Any]] | None:
        """A finished step's codes and notes; None where there is none or it is damaged, so that it is done again."""
        if not self.has(step):
            return None
        folder = self.root / step
        try:
            held = json.loads((folder / "notes.json").read_bytes())
            codes = {
                name: record.decode((folder / f"{i}.record").read_bytes(), self.threads)[0]
                for i, name in enumerate(held["names"])
            }
        except (OSError, ValueError, KeyError, FormatError, zlib.error):
            return None
        return codes, held["notes"]

    def discard(self) -> None:
        """Remove the whole work folder: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
