"""Unpacking: the files of a packed checkpoint again, byte for byte."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rarefy.codes.dtypes import DTYPES, dtype_of
from rarefy.errors import FormatError, RarefyError, ResourceError, UsageError
from rarefy.files import manifest
from rarefy.files.atomic import replace_file, whole_folder, write_bytes, writing
from rarefy.files.container import Reader
from rarefy.files.directory import INDEX
from rarefy.files.restoring import Stored, is_difference, restore
from rarefy.files.safetensors import Entry, parse_header, strict_json
from rarefy.plan.checkpoint import Checkpoint, digest
from rarefy.plan.pack import CONFIG, SECTION
from rarefy.progress import Progress, Silent
from rarefy.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.files.head import Head

_CHUNK: Final = 1 << 20


def is_packed(path: str | Path) -> bool:
    """Whether `path` is an artifact that `pack` wrote."""
    if not (Path(path) / manifest.FILE).is_file():
        return False
    try:
        return SECTION in manifest.read(path)
    except RarefyError:
        return False


def unpack(
    source: str | Path,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the packed checkpoint `source` as the directory `folder`: every file that was packed, byte for byte.

    base: the checkpoint that it was packed against, wherever it lies now; its tensors are proved to be the same first.

    Raises UsageError when `folder` exists, a base is missing or is another one; FormatError for a damaged artifact,
    naming tensor and tile; ResourceError when the disk is full. FOLDER is written whole or not at all.
    """
    threads, progress = threads or cores(), progress or Silent()
    sections = manifest.read(source)
    packed = _well_formed(sections.get(SECTION), Path(source))
    reader = Reader(source)
    heads = {name: reader.head(name) for name in reader.names()}
    files = {name: _entries(text, heads, name) for name, text in packed["files"].items()}
    names = [name for entries in files.values() for name in entries]
    if sorted(names) != sorted(heads):
        raise FormatError(f"{source} is refused", "its weight files and its manifest name other tensors")
    needing = {name for name, head in heads.items() if is_difference(head)}
    other = _base(Path(source), packed, needing, base, threads, progress)
    with whole_folder(Path(folder)) as fresh:
        wanted = ((n, heads[n], other.holder[n] if other is not None and n in needing else None) for n in names)
        total = sum(entry.size for entries in files.values() for entry in entries.values())
        with progress.task("unpacking", total) as advance:
            windows = restore(Stored(reader), wanted, threads)
            for name, entries in files.items():
                _write_file(fresh / name, packed["files"][name], entries, windows, advance)
        for name, text in packed["texts"].items():
            write_bytes(fresh / name, text.encode())
        _copy_beside(Path(source), fresh, sections, {*reader.files.files, *packed["texts"], INDEX, manifest.FILE})
    reader.close()


def _well_formed(packed: Any, source: Path) -> dict[str, Any]:
    """The manifest's section. Raises FormatError when it is malformed or names files outside the folder."""
    if packed is None:
        raise UsageError(f"{source} was not packed", "it is another kind of artifact")
    fine = (
        isinstance(packed, dict)
        and _texts(packed.get("files"))
        and _texts(packed.get("texts"))
        and set(packed["texts"]) <= {CONFIG, INDEX}
        and all(name.endswith(".safetensors") and not set(name) & set("/\\:\0") for name in packed["files"])
        and isinstance(packed.get("base", ""), str)
    )
    if not fine:
        raise FormatError(f"{source / manifest.FILE} is refused", f"its section {SECTION!r} is malformed")
    return dict(packed)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _entries(header: str, heads: Mapping[str, Head], file: str) -> Mapping[str, Entry]:
    """A weight file's tensors by offset, held to the records."""
    data = header.encode()
    parsed = strict_json(data, file)
    named = set(parsed) if isinstance(parsed, dict) else set()
    payload = sum(dtype_of(h.dtype).size * math.prod(h.shape) for name, h in heads.items() if name in named)
    entries, _ = parse_header(data, payload)
    for name, entry in entries.items():
        head = heads.get(name)
        known = entry.dtype in DTYPES
        if head is None or (head.dtype, head.shape) != ((entry.dtype, entry.shape) if known else ("U8", (entry.size,))):
            raise FormatError(f"{name} is not what the header of {file} says", remedy="make the artifact again")
    return entries


def _base(
    source: Path, packed: dict[str, Any], needing: set[str], base: str | Path | None, threads: int, progress: Progress
) -> Checkpoint | None:
    """The base, proved to be the right one."""
    expected = packed.get("base")
    if expected is None:
        if base is not None:
            raise UsageError(f"{source} was packed without a base", remedy="leave --base out")
        return None
    if base is None:
        raise UsageError(
            f"{source} holds differences from another checkpoint",
            f"its tensors have the digest {expected[:12]}..",
            "give that checkpoint: --base DIR0",
        )
    other = Checkpoint(Path(base))
    with progress.task("proving the base", 0):
        found = digest(other, needing, threads)
    if found != expected:
        raise UsageError(
            f"{base} is not the checkpoint that {source} was packed against",
            f"its tensors have {'the digest ' + found[:12] + '..' if found else 'other names'}, not {expected[:12]}..",
            "give the right one as --base",
        )
    return other


def _write_file(
    path: Path,
    header: str,
    entries: Mapping[str, Entry],
    windows: Iterator[NDArray[Any]],
    advance: Callable[[int], None],
) -> None:
    data = header.encode()
    with replace_file(path) as file:
        file.write(len(data).to_bytes(8, "little") + data)
        left = sum(entry.size for entry in entries.values())
        while left:
            window = next(windows)
            file.write(window.data)
            advance(window.size)
            left -= window.size


def _copy_beside(source: Path, fresh: Path, sections: dict[str, Any], own: set[str]) -> None:
    """Every side file, proved on the way."""
    for name, listed in sections["files"].items():
        if name in own:
            continue
        sha, target = hashlib.sha256(), fresh / name
        try:
            opened = (source / name).open("rb")
        except OSError as error:
            raise ResourceError(f"cannot read {source / name}", error.strerror or "") from error
        with opened as file, writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                while chunk := file.read(_CHUNK):
                    sha.update(chunk)
                    copy.write(chunk)
        if sha.hexdigest() != listed["sha256"]:
            raise FormatError(f"{source / name} is damaged", "its SHA-256 differs", "fetch it again")
