"""manifest.json: what an artifact holds and how it came about, with a SHA-256 of each file and of itself."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rarefy.errors import FormatError, ResourceError, UsageError
from rarefy.files import record
from rarefy.files.atomic import canonical_json, write_json
from rarefy.files.container import Reader
from rarefy.files.safetensors import strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE: Final = "manifest.json"
VERSION: Final = 1
_OWN: Final = {"digest", "files", "format", "rarefy"}
_LARGEST: Final = 100_000_000
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Damage:
    """Something wrong in an artifact.

    file: relative to the artifact. tensor: the parameter. where: "header" of a weight file, "head" of a record, or
    a tile such as "stream values, tile 3". Both None where a file is not looked into.
    """

    file: str
    what: str
    tensor: str | None = None
    where: str | None = None

    def __str__(self) -> str:
        return ", ".join(part for part in (self.file, self.tensor, self.where) if part) + f": {self.what}"


def write(folder: str | os.PathLike[str], sections: Mapping[str, Any]) -> None:
    """Write manifest.json over every file that is in `folder` now, with `sections` (JSON values) in it.

    Raises ResourceError when a file cannot be read or the manifest not written, ValueError for a section that has a
    name of the manifest's own or holds what JSON does not (NaN).
    """
    folder = Path(folder)
    taken = _OWN & set(sections)
    if taken:
        raise ValueError(f"a section cannot be called {min(taken)}")
    files = {name: _measure(folder / name) for name in _files(folder) if name != FILE}
    content = {**sections, "files": files, "format": VERSION, "rarefy": importlib.metadata.version("rarefy")}
    write_json(folder / FILE, {**content, "digest": _digest(content)})


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest, proved whole: {"format", "rarefy", "files", "digest"} and the sections.

    Raises UsageError when there is none, FormatError when any bit of it is not as written.
    """
    path = Path(folder) / FILE
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path} is damaged", f"it is larger than {_LARGEST} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{folder} is not an artifact", f"its {FILE} cannot be read, {error.strerror}") from error
    content = strict_json(data, str(path))
    if not isinstance(content, dict) or content.get("format") != VERSION:
        newer = isinstance(content, dict) and isinstance(content.get("format"), int)
        raise FormatError(f"{path} has no format {VERSION}", remedy="open it with a newer rarefy" if newer else "")
    try:
        canonical = canonical_json(content)
    except ValueError:
        canonical = b""
    rest = {key: value for key, value in content.items() if key != "digest"}
    if canonical != data or _digest(rest) != content.get("digest"):
        raise FormatError(f"{path} is damaged", "its digest is wrong")
    if not _well_formed(content.get("files")):
        raise FormatError(f"{path} is refused", "its table of files is malformed")
    return content


def verify(folder: str | os.PathLike[str]) -> list[Damage]:
    """Everything that is not as it was written, in order of file; empty for a whole artifact.

    Memory is bounded by the largest record, and that only where a weight file is damaged. Raises UsageError when
    `folder` has no manifest.
    """
    folder = Path(folder)
    found = list(_files(folder))
    try:
        listed: dict[str, dict[str, Any]] = read(folder)["files"]
    except FormatError as error:
        damage = [Damage(FILE, error.why or error.what)]
        weights = [name for name in found if name.endswith(".safetensors")]
        return damage + [d for name in weights for d in _inside(folder, name)]
    damages = []
    for name in sorted({*listed, *found} - {FILE}):
        if name not in listed:
            damages.append(Damage(name, "is not in the manifest"))
        elif name not in found:
            damages.append(Damage(name, "is missing"))
        elif _measure(folder / name) != listed[name]:
            damages += _located(folder, name, listed[name])
    return damages


def _located(folder: Path, name: str, expected: Mapping[str, Any]) -> list[Damage]:
    """Where a file differs, as closely as its own checksums tell."""
    size = (folder / name).stat().st_size
    what = "its SHA-256 differs" if size == expected["bytes"] else f"it has {size} bytes, not {expected['bytes']}"
    if not name.endswith(".safetensors"):
        return [Damage(name, what)]
    # Every record is whole, so what differs is what stands around them.
    return _inside(folder, name) or [Damage(name, what, where="header")]


def _inside(folder: Path, name: str) -> list[Damage]:
    """Damage in a weight file by its own checksums."""
    try:
        reader = Reader(folder / name)
    except FormatError as error:
        return [Damage(name, str(error), where="header")]
    try:
        return [
            Damage(name, "its checksum is wrong", tensor, where)
            for tensor in reader.names()
            for where in record.check(reader.record(tensor))
        ]
    finally:
        reader.close()


def _files(folder: Path) -> Iterator[str]:
    """Every file below `folder`, relative with forward slashes, in order."""
    names = []
    for root, _, files in os.walk(folder):
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in files]
    return iter(sorted(names))


def _measure(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise ResourceError(f"cannot read {path}", error.strerror or "") from error
    return {"bytes": size, "sha256": digest.hexdigest()}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _well_formed(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and not {"", ".", ".."} & set(name.split("/"))
        and "\\" not in name
        for name, entry in files.items()
    )
