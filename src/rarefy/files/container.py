"""Records in safetensors files: spread, a tensor each; or single, all in one, where headers would outweigh them, the
smallest networks in a compact form (`files.compact`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from rarefy.errors import FormatError, ResourceError
from rarefy.files import compact
from rarefy.files import record as records
from rarefy.files.atomic import write_json
from rarefy.files.directory import INDEX, SINGLE, TensorDirectory
from rarefy.files.head import checksum, checksum_size
from rarefy.files.names import read_names, write_names
from rarefy.files.safetensors import Payload
from rarefy.files.safetensors import write as write_tensors
from rarefy.files.varint import Cursor, varint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from rarefy.codes import Code
    from rarefy.files.head import Head

VERSION: Final = 1
ALL: Final = "rarefy"
"""The one tensor of the single layout."""

SINGLE_BYTES: Final = 64_000
"""Records that are smaller together use the single layout."""

COMPACT: Final = b"\0"
"""How the tensor of the compact layout begins, where a table would say its length."""

COMPACT_BYTES: Final = 1 << 17
"""The most that it has, since it is read whole."""

SHARD_BYTES: Final = 5_000_000_000
_METADATA: Final = {"format": "pt", "rarefy": str(VERSION)}
_CHUNK: Final = 1 << 24
_ENTRY: Final = 70  # bytes of a tensor's entry in the JSON header, without its name


@runtime_checkable
class Record(Protocol):
    """A record to be written."""

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The same, little by little."""
        ...


def write(
    folder: str | os.PathLike[str],
    items: Iterable[tuple[str, bytes | Path | Record]],
    *,
    shard_bytes: int = SHARD_BYTES,
    single_bytes: int = SINGLE_BYTES,
) -> tuple[str, ...]:
    """The weight files of an artifact in `folder`, in the order of `items`; returns their names, the index's included.

    items: parameter names and records, as bytes (kept in memory until written), as files that hold one each, or as
        whatever gives its bytes when asked.
    shard_bytes: a file closes before it holds more bytes of records than this.
    single_bytes: networks with fewer bytes of records than this use the single layout.

    Raises ResourceError when a file cannot be written, ValueError for a name given twice.
    """
    folder = Path(folder)
    parts = [(name, source if isinstance(source, Record) else _Part.of(source)) for name, source in items]
    names = [name for name, _ in parts]
    if len(set(names)) != len(names):
        raise ValueError("a parameter is given twice")
    # A parameter that is itself called "rarefy" would read as the single layout, so it is put into one.
    if sum(part.size for _, part in parts) < single_bytes or ALL in names:
        write_tensors(folder / SINGLE, [(ALL, _compact(parts) or _single(parts))])
        return (SINGLE,)
    shards = _shards(parts, shard_bytes)
    if len(shards) == 1:
        _write_spread(folder / SINGLE, parts)
        return (SINGLE,)
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        _write_spread(folder / file, shard)
    placed = {name: file for file, shard in zip(files, shards, strict=True) for name, _ in shard}
    total = sum(part.size for _, part in parts)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})
    return (*files, INDEX)


def holds_records(path: str | os.PathLike[str]) -> bool:
    """Whether the weight files of a directory are records, in either layout. Raises as `TensorDirectory`."""
    files = TensorDirectory(path)
    try:
        return set(files.entries) == {ALL} or "rarefy" in files.metadata
    finally:
        files.close()


class Reader:
    """The records of an artifact; files stay on disk.

    sizes: bytes of each record by parameter name, in the order of the files.

    Raises FormatError when a file is damaged where names and sizes stand, UsageError when there are no weights.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.files = TensorDirectory(folder)
        self._places: dict[str, tuple[str, int, int]] = {}
        self._held: dict[str, bytes] = {}
        entries = self.files.entries
        other = next((name for name, e in entries.items() if e.dtype != "U8" or e.shape != (e.size,)), None)
        if other is not None:
            raise FormatError(
                f"{self.files.file(other).path} is not an artifact's", f"tensor {other!r} is not a record"
            )
        if not self.single:
            self._expect_version()
            self._places = {name: (name, 0, entry.size) for name, entry in entries.items()}
        elif self.files.read_bytes(ALL, 0, 1) == COMPACT:
            self._read_compact(entries[ALL].size)
        else:
            self._places = {name: (ALL, at, size) for name, at, size in self._contents(entries[ALL].size)}
        self.sizes = {name: size for name, (_, _, size) in self._places.items()}

    @property
    def size(self) -> int:
        """Bytes of all weight files: the rate."""
        return self.files.size

    @property
    def single(self) -> bool:
        """Whether all records stand in one tensor."""
        return set(self.files.entries) == {ALL}

    def names(self) -> tuple[str, ...]:
        """Parameter names, in the order of the files."""
        return tuple(self.sizes)

    def file(self, name: str) -> Path:
        """The file that holds a parameter's record."""
        return self.files.file(self._places[name][0]).path

    def record(self, name: str) -> bytes:
        """A parameter's record."""
        tensor, at, size = self._places[name]
        return self._held.get(name) or self.files.read_bytes(tensor, at, size)

    def part_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out` with bytes of a parameter's record from `offset` on, of which it must have as many."""
        if name in self._held:
            out[:] = self._held[name][offset : offset + len(out)]
            return
        tensor, at, _ = self._places[name]
        self.files.file(tensor).read_into(tensor, at + offset, out)

    def head(self, name: str) -> Head:
        """A parameter's head, reading no more of the file. Raises FormatError."""
        if name in self._held:
            return records.parse(self._held[name])
        tensor, at, size = self._places[name]
        prefix = self.files.read_bytes(tensor, at, min(size, 4096))
        needed = records.head_size(prefix)
        if needed > len(prefix):
            prefix = self.files.read_bytes(tensor, at, min(size, needed))
        return records.parse(prefix, size)

    def code(self, name: str, threads: int = 1) -> tuple[Code, str]:
        """A parameter's code and its original element type. Raises FormatError naming parameter and tile."""
        try:
            return records.decode(self.record(name), threads)
        except FormatError as error:
            raise FormatError(f"{name} in {self.file(name)} is damaged", str(error)) from error

    def close(self) -> None:
        """Close the files."""
        self.files.close()

    def _expect_version(self) -> None:
        for file in self.files.files.values():
            version = file.metadata.get("rarefy")
            if version is None:
                raise FormatError(f"{file.path} is not an artifact's", "its metadata do not say rarefy")
            if version != str(VERSION):
                raise FormatError(f"{file.path} has version {version}", remedy="open it with a newer rarefy")

    def _read_compact(self, total: int) -> None:
        """All records of the compact layout, made ordinary ones."""
        what = f"the tensor of {self.files.file(ALL).path}"
        if total > COMPACT_BYTES:
            raise FormatError(f"{what} is compact and has {total} bytes", f"at most {COMPACT_BYTES} are allowed")
        data = self.files.read_bytes(ALL)
        end = total - checksum_size(max(0, total - 2))
        if end < 1 or checksum(data[:end]) != data[end:]:
            raise FormatError(f"{what} is damaged", "its checksum is wrong")
        cursor = Cursor(data[:end], what, len(COMPACT))
        names = read_names(cursor, cursor.varint())
        at = cursor.at
        for name, (record, size) in zip(names, compact.read(cursor, len(names)), strict=True):
            self._places[name], self._held[name] = (ALL, at, size), record
            at += size
        if cursor.left:
            raise FormatError(f"{what} does not end with its last record")

    def _contents(self, total: int) -> Iterator[tuple[str, int, int]]:
        """Names, offsets and sizes from the table at the start of the single layout's tensor."""
        what = f"the table of {self.files.file(ALL).path}"
        prefix = self.files.read_bytes(ALL, 0, 9)
        cursor = Cursor(prefix, what)
        end = cursor.varint() + cursor.at
        if end > total:
            raise FormatError(f"{what} ends early")
        start = end + checksum_size(end)
        table = self.files.read_bytes(ALL, 0, start)
        if checksum(table[:end]) != table[end:]:
            raise FormatError(f"{what} is damaged", "its checksum is wrong")
        cursor = Cursor(table[:end], what, cursor.at)
        count, version = divmod(cursor.varint(), 16)
        if version != VERSION:
            raise FormatError(f"{what} has version {version}", remedy="open it with a newer rarefy")
        names = read_names(cursor, count)
        sizes = [cursor.varint() for _ in names]
        offsets = list(accumulate(sizes, initial=start))
        if cursor.left or offsets[-1] != total:
            raise FormatError(f"{what} does not fit what follows it")
        return zip(names, offsets, sizes, strict=False)


@dataclass(frozen=True)
class _Part:
    """A record in memory or in a file of its own."""

    source: bytes | Path
    size: int

    @classmethod
    def of(cls, source: bytes | Path) -> _Part:
        if isinstance(source, bytes):
            return cls(source, len(source))
        try:
            return cls(source, source.stat().st_size)
        except OSError as error:
            raise ResourceError(f"cannot read {source}", error.strerror or "") from error

    def chunks(self) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            yield self.source
            return
        try:
            with self.source.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise ResourceError(f"cannot read {self.source}", error.strerror or "") from error


def _compact(parts: list[tuple[str, Record]]) -> Payload | None:
    """The layout for the smallest networks; None where a record is too large for it, or of another form."""
    if sum(part.size for _, part in parts) >= SINGLE_BYTES:
        return None
    body = compact.write(b"".join(part.chunks()) for _, part in parts)
    if body is None:
        return None
    data = COMPACT + varint(len(parts)) + write_names(name for name, _ in parts) + body
    data += checksum(data)
    return Payload("U8", (len(data),), len(data), [data]) if len(data) <= COMPACT_BYTES else None


def _single(parts: list[tuple[str, Record]]) -> Payload:
    body = varint(VERSION + 16 * len(parts)) + write_names(name for name, _ in parts)
    body += b"".join(varint(part.size) for _, part in parts)
    table = varint(len(body)) + body
    table += checksum(table)
    size = len(table) + sum(part.size for _, part in parts)

    def chunks() -> Iterator[bytes]:
        yield table
        for _, part in parts:
            yield from part.chunks()

    return Payload("U8", (size,), size, chunks())


def _shards(parts: list[tuple[str, Record]], limit: int) -> list[list[tuple[str, Record]]]:
    shards: list[list[tuple[str, Record]]] = [[]]
    size = 0
    for item in parts:
        if shards[-1] and size + item[1].size > limit:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item[1].size
    return shards


def _write_spread(path: Path, parts: list[tuple[str, Record]]) -> None:
    write_tensors(path, [(name, Payload("U8", (p.size,), p.size, p.chunks())) for name, p in parts], _METADATA)


def is_single(names: Collection[str], size: int) -> bool:
    """Whether files of that many bytes that hold tensors of these names use the single layout."""
    return size < SINGLE_BYTES + _spread_overhead(names)


def overhead(names: Collection[str], size: int) -> int:
    """Bytes of such files beside the records, about; those of the single layout stay below SINGLE_BYTES."""
    if not is_single(names, size):
        return _spread_overhead(names)
    return max(sum(len(name.encode()) + 2 for name in names), size - SINGLE_BYTES + 1)


def _spread_overhead(names: Collection[str]) -> int:
    return sum(len(name.encode()) + _ENTRY for name in names)
