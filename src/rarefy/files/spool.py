"""Coded tiles on disk until it is known what stands before them."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from rarefy.errors import ResourceError
from rarefy.files.atomic import writing

if TYPE_CHECKING:
    from pathlib import Path


class Spool:
    """Bytes in the order in which they came, in a file without a name in `folder`: a killed process leaves nothing.

    Raises ResourceError when the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self.size = 0

    def append(self, data: bytes) -> int:
        """Where `data` now stands."""
        with writing(self._folder):
            self._file.write(data)
        self.size += len(data)
        return self.size - len(data)

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`."""
        with writing(self._folder):
            self._file.flush()
            data = os.pread(self._file.fileno(), size, start)
        if len(data) != size:
            raise ResourceError(f"cannot read what was written in {self._folder}")
        return data

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
