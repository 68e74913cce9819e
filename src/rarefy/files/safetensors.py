"""safetensors files: 8 bytes of header length, a JSON header, the tensors' bytes; read piece by piece, never mapped.

A mapped file counts as resident memory and dies by signal when the disk errs; `pread` does neither.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.dtypes import DTYPES, dtype_of
from rarefy.errors import FormatError, ResourceError, UsageError
from rarefy.files.atomic import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

MAX_HEADER: Final = 100_000_000
"""The format's own limit, bytes."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file. start: from the beginning of the file; size: bytes. dtype: as safetensors writes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class TensorFile:
    """One safetensors file, open for reading; entries: by name, by offset; size: bytes of the file.

    Raises FormatError for a file that is not exactly what its header says, UsageError when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise UsageError(f"cannot open {self.path}", error.strerror or "") from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self.entries, self.metadata, self.header = self._read_header()

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        self._close()

    def raw(self, name: str) -> NDArray[Any]:
        """A tensor's elements in `codes.dtypes`' raw type, shaped. Raises FormatError for a type that is unknown."""
        entry = self.entries[name]
        out = np.empty(entry.shape, dtype_of(entry.dtype).raw)
        if entry.size:
            self._fill(out.reshape(-1).view(np.uint8).data, entry.start)
        return out

    def dense(self, name: str) -> Dense:
        """A tensor as a dense code that stays in the file until it is wanted."""
        entry = self.entries[name]
        return Dense(lambda: self.raw(name), entry.shape, dtype_of(entry.dtype))

    def read_bytes(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes [offset, offset + length) of a tensor, fewer at its end."""
        entry = self.entries[name]
        length = entry.size - offset if length is None else min(length, entry.size - offset)
        out = bytearray(max(0, length))
        self._fill(memoryview(out), entry.start + offset)
        return bytes(out)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out` with a tensor's bytes from `offset` on. Raises ValueError for more than there are."""
        entry = self.entries[name]
        if not 0 <= offset <= entry.size - len(out):
            raise ValueError(f"{name} has no {len(out)} bytes from {offset} on")
        self._fill(out, entry.start + offset)

    def _fill(self, out: memoryview, start: int) -> None:
        """Read into `out` from `start` in the file."""
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._descriptor, [out[done : done + (1 << 30)]], start + done)
            except OSError as error:
                raise ResourceError(f"cannot read {self.path}", error.strerror or "") from error
            if count == 0:
                raise FormatError(f"{self.path} is damaged", "it ends early")
            done += count

    def _read_header(self) -> tuple[dict[str, Entry], dict[str, str], bytes]:
        if self.size < 8:
            raise FormatError(f"{self.path} is not a safetensors file", f"it has {self.size} bytes")
        length = bytearray(8)
        self._fill(memoryview(length), 0)
        size = int.from_bytes(length, "little")
        if size > min(MAX_HEADER, self.size - 8):
            raise FormatError(f"{self.path} is not a safetensors file", f"its header would have {size} bytes")
        header = bytearray(size)
        self._fill(memoryview(header), 8)
        try:
            entries, metadata = parse_header(bytes(header), self.size - 8 - size)
        except FormatError as error:
            raise FormatError(f"{self.path} is not a safetensors file", str(error)) from error
        return entries, metadata, bytes(length + header)


def parse_header(header: bytes, payload: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries by offset, and metadata, of a header followed by `payload` bytes.

    Raises FormatError unless the tensors lie side by side and fill the payload, as the format demands.
    """
    parsed = strict_json(header, "its header")
    if not isinstance(parsed, dict):
        raise FormatError("its header is not a table")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("its metadata is not a table of texts")
    start = 8 + len(header)
    entries = {name: _entry(name, fields, start) for name, fields in parsed.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))
    at = start
    for name, entry in entries.items():
        if entry.start != at:
            raise FormatError(f"tensor {name!r} overlaps another or leaves a gap")
        at += entry.size
    if at != start + payload:
        raise FormatError(f"its tensors have {at - start} bytes where the file has {payload}")
    return entries, metadata


def strict_json(data: bytes, what: str) -> Any:
    """The value of UTF-8 JSON without duplicate keys or non-numbers. Raises FormatError."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError(f"{what} has a name twice")
        return found

    def constant(text: str) -> float:
        raise FormatError(f"{what} has the number {text}")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=table, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON", str(error)[:100]) from error


def _entry(name: str, fields: Any, base: int) -> Entry:
    """A header's entry, checked. base: where the tensors' bytes begin."""
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= set(fields):
        raise FormatError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise FormatError(f"tensor {name!r} has a dtype, shape or data_offsets of a wrong kind")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"tensor name {name!r} is not Unicode text") from None
    size = offsets[1] - offsets[0]
    known = DTYPES.get(dtype)
    if len(shape) > 64 or math.prod(max(n, 1) for n in shape) >= 1 << 62:
        raise FormatError(f"tensor {name!r} has a shape that is too large")
    if size < 0 or (known is not None and size != math.prod(shape) * known.size):
        raise FormatError(f"tensor {name!r} has {size} bytes, which is not its shape times its element size")
    return Entry(dtype, tuple(shape), base + offsets[0], size)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


@dataclass(frozen=True)
class Payload:
    """A tensor to be written: `size` bytes that `chunks` gives when asked."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: Iterable[bytes | memoryview]


def write(
    path: str | os.PathLike[str], entries: Iterable[tuple[str, Payload]], metadata: Mapping[str, str] | None = None
) -> None:
    """A safetensors file with these tensors in this order, whole or not at all; chunks are taken one at a time.

    Raises ResourceError when it cannot be written, ValueError when chunks do not add up to their size.
    """
    listed = list(entries)
    with replace_file(path) as file:
        file.write(header_bytes([(name, p.dtype, p.shape, p.size) for name, p in listed], metadata))
        for name, payload in listed:
            written = sum(file.write(chunk) for chunk in payload.chunks)
            if written != payload.size:
                raise ValueError(f"tensor {name} came as {written} bytes, not {payload.size}")


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Length and header of a file with these (name, dtype, shape, bytes), one after the other."""
    table: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name, dtype, shape, size in tensors:
        if name in table:
            raise ValueError(f"tensor {name} is given twice")
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return len(header).to_bytes(8, "little") + header


def chunks_of(array: NDArray[Any], size: int = 1 << 24) -> Iterator[memoryview]:
    """An array's bytes, little by little."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for at in range(0, len(data), size):
        yield data[at : at + size]
