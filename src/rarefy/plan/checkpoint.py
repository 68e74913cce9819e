"""A directory of safetensors as a checkpoint: its weight files, what lies beside them, and what its tensors are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rarefy.errors import FormatError, UsageError
from rarefy.files.container import ALL
from rarefy.files.directory import INDEX, SINGLE, read_index
from rarefy.files.in_order import in_order
from rarefy.files.safetensors import TensorFile

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK: Final = 1 << 20


class Checkpoint:
    """The tensors of the shards that an index names, of `model.safetensors`, or of every safetensors file of a
    directory; or of one file.

    folder: None for one file. files: in order of name. entries: file that holds a tensor, by its name.

    Raises UsageError when there are no weights or an artifact's, FormatError for damaged files, a missing shard or a
    tensor that two files hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path if path.is_dir() else None
        self.files = [TensorFile(file) for file in _weight_files(path)]
        self.holder: dict[str, TensorFile] = {}
        for file in self.files:
            if set(file.entries) == {ALL} or "rarefy" in file.metadata:
                raise UsageError(f"{path} is an artifact", "its weights are coded already", "unpack it first")
            for name in file.entries:
                if name in self.holder:
                    raise FormatError(f"{self.holder[name].path} and {file.path} both hold a tensor {name!r}")
                self.holder[name] = file

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.size for file in self.files)

    def beside(self) -> list[Path]:
        """All other files, relative to the folder, in order; hidden ones are not carried."""
        if self.folder is None:
            return []
        own = {file.path.name for file in self.files}
        found = [path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        visible = [p for p in found if not any(part.startswith(".") or part == "__pycache__" for part in p.parts)]
        return [p for p in visible if p.as_posix() not in own]


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path} does not exist", remedy="give a directory of safetensors files")
    if (path / INDEX).is_file():
        return [path / name for name in read_index(path / INDEX)]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise UsageError(f"{path} has no safetensors", remedy="save the weights as safetensors first")
    return found


def digest(checkpoint: Checkpoint, names: Iterable[str], threads: int) -> str | None:
    """SHA-256 over names, types, shapes and bytes of some tensors, in order of name; None when one is not there.

    Files, shards and metadata do not matter, so a checkpoint that was saved again is still the same.
    """
    ordered = sorted(names)
    if any(name not in checkpoint.holder for name in ordered):
        return None
    lines = in_order(lambda name: _line(checkpoint.holder[name], name), ordered, threads)
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line)
    return whole.hexdigest()


def _line(file: TensorFile, name: str) -> bytes:
    entry, sha = file.entries[name], hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK, entry.size)))
    for at in range(0, entry.size, _CHUNK):
        part = buffer[: min(_CHUNK, entry.size - at)]
        file.read_into(name, at, part)
        sha.update(part)
    return json.dumps([name, entry.dtype, list(entry.shape), sha.hexdigest()]).encode() + b"\n"
