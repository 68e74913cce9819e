"""A directory of safetensors files as one mapping of tensors, however many shards it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rarefy.errors import FormatError, UsageError
from rarefy.files.safetensors import Entry, TensorFile, strict_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Dense

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_MAX_INDEX: Final = 100_000_000
_LONGEST_NAME: Final = 255
"""Bytes of a file's name that file systems allow."""


class TensorDirectory:
    """The tensors of `model.safetensors`, of the shards in `model.safetensors.index.json`, or of the one
    `*.safetensors` of a directory. A path to one file works as well.

    files: the weight files, in order of name. entries: tensors by name.

    Raises UsageError when there are no weights or several files and no index; FormatError for damaged files, a
    missing shard or a shard that does not hold what the index says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        placed = self._placed()
        self.files = {name: TensorFile(self.folder / name) for name in placed}
        self._file: dict[str, TensorFile] = {}
        for shard, names in placed.items():
            file = self.files[shard]
            missing = next((name for name in names or () if name not in file.entries), None)
            if missing is not None:
                raise FormatError(f"{file.path} has no tensor {missing!r}", f"{INDEX} says it has")
            for name in file.entries if names is None else names:
                self._file[name] = file
        self.entries: dict[str, Entry] = {name: file.entries[name] for name, file in self._file.items()}

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def size(self) -> int:
        """Bytes of all weight files."""
        return sum(file.size for file in self.files.values())

    @property
    def metadata(self) -> dict[str, str]:
        """Of the first file."""
        return next(iter(self.files.values())).metadata if self.files else {}

    def file(self, name: str) -> TensorFile:
        """The file that holds a tensor."""
        return self._file[name]

    def raw(self, name: str) -> NDArray[Any]:
        """A tensor's elements, as `TensorFile.raw`."""
        return self._file[name].raw(name)

    def read_bytes(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Some bytes of a tensor, as `TensorFile.read_bytes`."""
        return self._file[name].read_bytes(name, offset, length)

    def dense(self, name: str) -> Dense:
        """A tensor as a lazily loading dense code."""
        return self._file[name].dense(name)

    def codes(self) -> dict[str, Dense]:
        """Every tensor as a lazily loading dense code. Raises FormatError for an element type that is unknown."""
        return {name: self.dense(name) for name in self.entries}

    def close(self) -> None:
        """Close every file."""
        for file in self.files.values():
            file.close()

    def _placed(self) -> dict[str, list[str] | None]:
        """Weight files, and the tensors that the index puts in each; None for all."""
        if self.path.is_file():
            return {self.path.name: None}
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is not a directory of weights", "it does not exist")
        if (self.path / INDEX).is_file():
            return read_index(self.path / INDEX)
        if (self.path / SINGLE).is_file():
            return {SINGLE: None}
        found = sorted(file.name for file in self.path.glob("*.safetensors"))
        if len(found) == 1:
            return {found[0]: None}
        why = f"it has {len(found)} safetensors files and no {INDEX}" if found else "it has no safetensors files"
        raise UsageError(f"{self.path} is not a directory of weights", why)


def read_index(path: Path) -> dict[str, list[str] | None]:
    """Shards of an index file, in order of name, and the tensors of each.

    Raises FormatError for an index that is malformed, names a shard outside its folder, or one that is missing.
    """
    if path.stat().st_size > _MAX_INDEX:
        raise FormatError(f"{path} is damaged", f"it is larger than {_MAX_INDEX} bytes")
    parsed = strict_json(path.read_bytes(), f"{path}")
    weights = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise FormatError(f"{path} is damaged", "it has no weight_map from names to files")
    shards: dict[str, list[str]] = {}
    for name, shard in weights.items():
        shards.setdefault(shard, []).append(name)
    for shard in sorted(shards):
        if not _plain(shard):
            raise FormatError(f"{path} is refused", f"it names {shard!r}, which is not a file beside it")
        if not (path.parent / shard).is_file():
            raise FormatError(f"{path.parent} lacks its shard {shard}", remedy="fetch the missing file")
    return {shard: list(shards[shard]) for shard in sorted(shards)}


def _plain(name: str) -> bool:
    """Whether `name` is a file name and nothing more."""
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|')  # printable text has UTF-8
    return plain and name.endswith(".safetensors") and len(name.encode()) <= _LONGEST_NAME
