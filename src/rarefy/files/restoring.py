"""Records back to tensors in windows of some elements: bounded memory however large a tensor, on all cores."""

from __future__ import annotations

import functools
import math
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.difference import Difference, rotated, together
from rarefy.codes.dtypes import dtype_of
from rarefy.entropy import coders, rans_tiles
from rarefy.errors import FormatError
from rarefy.files.buffers import Buffers
from rarefy.files.in_order import in_order
from rarefy.files.record import tile_name
from rarefy.files.windows import WINDOW
from rarefy.native import _kernels, crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from rarefy.entropy import Coder
    from rarefy.files.container import Reader
    from rarefy.files.head import Head
    from rarefy.files.safetensors import TensorFile

_BUFFERS: Final = Buffers()


class Records(Protocol):
    """Where records are."""

    def view(self, name: str, start: int, size: int, plane: int) -> NDArray[np.uint8]:
        """Bytes of a record, valid until this thread asks for others of a plane of this number."""
        ...

    def where(self, name: str) -> str:
        """What errors call the place of a record."""
        ...


class Stored(Records):
    """In files."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def view(self, name: str, start: int, size: int, plane: int) -> NDArray[np.uint8]:
        data = _BUFFERS.take(f"coded{plane}", size)
        self._reader.part_into(name, start, data.data)
        return data

    def where(self, name: str) -> str:
        return str(self._reader.file(name))


class Held(Records):
    """In memory."""

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = {name: np.frombuffer(record, np.uint8) for name, record in records.items()}

    def view(self, name: str, start: int, size: int, plane: int) -> NDArray[np.uint8]:
        return self._records[name][start : start + size]

    def where(self, name: str) -> str:
        return "memory"


def restore(
    records: Records, wanted: Iterable[tuple[str, Head, TensorFile | None]], threads: int
) -> Iterator[NDArray[np.uint8]]:
    """Raw bytes of tensors, window after window, each in memory that is used again when the next is asked for.

    wanted: names and heads, with the file that holds the base of those that are differences.

    Raises FormatError naming the tensor and tile that is damaged, or for a record that is neither dense nor a
    difference.
    """
    spare: list[NDArray[np.uint8]] = []
    tensors = (_Restored(records, *each) for each in wanted)
    for whole, sizes in in_order(lambda windows: _restored(windows, spare), _groups(tensors), threads):
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            yield whole[end - size : end]
        spare.append(whole)


def _groups(tensors: Iterable[_Restored]) -> Iterator[list[tuple[_Restored, int]]]:
    """Windows, as tensors and where they start; short ones together, as a job costs as much as restoring thousands."""
    group: list[tuple[_Restored, int]] = []
    elements = 0
    for tensor in tensors:
        for start in range(0, tensor.count, WINDOW):
            count = min(WINDOW, tensor.count - start)
            if group and elements + count > WINDOW:
                yield group
                group, elements = [], 0
            group.append((tensor, start))
            elements += count
    if group:
        yield group


def _restored(
    windows: list[tuple[_Restored, int]], spare: list[NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], list[int]]:
    """A buffer that begins with the raw bytes of windows, one after the other, and the bytes of each."""
    sizes = [tensor.size(start) for tensor, start in windows]
    try:
        whole = spare.pop()
    except IndexError:
        whole = np.empty(0, np.uint8)
    if whole.size < sum(sizes):
        whole = np.empty(max(sum(sizes), 2 * WINDOW), np.uint8)
    for (tensor, start), end, size in zip(windows, accumulate(sizes), sizes, strict=True):
        tensor.window(start, whole[end - size : end])
    return whole, sizes


class _Restored:
    """One record, restored in windows."""

    def __init__(self, records: Records, name: str, head: Head, base: TensorFile | None) -> None:
        self.records, self.name, self.head, self.base = records, name, head, base
        self.dtype = dtype_of(head.dtype)
        self.count = math.prod(head.shape)
        self.way = _way(head, name)
        if (self.way is not None) != (base is not None):
            raise FormatError(f"{name} is not what the manifest says", "one of them calls it a difference")
        self.sizes = [np.array(s.sizes, np.int64) for s in head.streams]
        self.checks = [np.array(s.checks, np.int64) for s in head.streams]
        self.ends = [at + sizes.cumsum() for at, sizes in zip(head.offsets, self.sizes, strict=False)]
        for stream in head.streams:
            if stream.count != self.count:
                raise FormatError(f"{name} is damaged", "a plane has another number of symbols than the tensor")

    def size(self, start: int) -> int:
        """Bytes of the window from element `start`."""
        return min(WINDOW, self.count - start) * self.dtype.size

    def window(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with the raw bytes of the window from element `start`."""
        try:
            (self._together if self._whole_tiles(start) else self._apart)(start, out)
        except FormatError as error:
            raise FormatError(f"{self.name} in {self.records.where(self.name)} is damaged", str(error)) from error
        if self.base is not None and self.way is not None:
            base = _BUFFERS.take("base", out.size)
            self.base.read_into(self.name, start * self.dtype.size, base.data)
            unsigned = f"<u{self.dtype.size}"
            bits = together(out.view(unsigned), base.view(unsigned), self.dtype, self.way)
            out[:] = bits.view(np.uint8)

    def _whole_tiles(self, start: int) -> bool:
        """Whether every plane of the window is whole tiles of the fast coder."""
        end = min(start + WINDOW, self.count)
        return all(
            stream.coder == rans_tiles.CODER.ID
            and stream.inline is None
            and not stream.model
            and start % stream.symbols == 0
            and (end % stream.symbols == 0 or end == self.count)
            and (stream.symbols % rans_tiles.BLOCK == 0 or stream.symbols >= self.count)
            for stream in self.head.streams
        )

    def _together(self, start: int, out: NDArray[np.uint8]) -> None:
        """All planes at once."""
        end = min(start + WINDOW, self.count)
        tiles = [slice(start // s.symbols, -(-end // s.symbols)) for s in self.head.streams]
        damaged = rans_tiles.decode_window(
            [self._coded(i, of) for i, of in enumerate(tiles)],
            [stream.symbols for stream in self.head.streams],
            [sizes[of] for sizes, of in zip(self.sizes, tiles, strict=True)],
            [checks[of] for checks, of in zip(self.checks, tiles, strict=True)],
            rotated(self.dtype, self.way),
            out,
        )
        if damaged is not None:
            plane, tile = damaged
            name = tile_name(self.head.names[plane], tiles[plane].start + tile)
            raise FormatError(f"{name} is damaged", "its checksum is wrong, or it is not one")

    def _coded(self, i: int, tiles: slice) -> NDArray[np.uint8]:
        """Bytes of some tiles of plane i."""
        begin = int(self.ends[i][tiles.start] - self.sizes[i][tiles.start])
        return self.records.view(self.name, begin, int(self.ends[i][tiles.stop - 1]) - begin, i)

    def _apart(self, start: int, out: NDArray[np.uint8]) -> None:
        """Plane after plane, for any coders."""
        planes = _BUFFERS.take("planes", out.size).reshape(self.dtype.size, -1)
        for i, plane in enumerate(planes):
            self._fill(i, start, plane)
        _kernels.join_planes(planes, rotated(self.dtype, self.way), out)

    def _fill(self, i: int, start: int, out: NDArray[np.uint8]) -> None:
        """Symbols start .. start + out.size of plane i."""
        stream, end = self.head.streams[i], start + out.size
        if stream.inline is not None:
            whole = np.empty(stream.count, np.uint8)
            _coders()[stream.coder].decode(stream.inline, stream.model, whole)
            out[:] = whole[start:end]
            return
        tiles = slice(start // stream.symbols, -(-end // stream.symbols))
        self._one_by_one(i, start, out, tiles, self._coded(i, tiles))

    def _one_by_one(self, i: int, start: int, out: NDArray[np.uint8], tiles: slice, data: NDArray[np.uint8]) -> None:
        """The same from tiles that begin and end anywhere."""
        stream, end, at = self.head.streams[i], start + out.size, 0
        for tile in range(tiles.start, tiles.stop):
            coded = data[at : at + stream.sizes[tile]].data
            at += stream.sizes[tile]
            if crc32(coded) != stream.checks[tile]:
                raise FormatError(f"{tile_name(self.head.names[i], tile)} is damaged", "its checksum is wrong")
            first = tile * stream.symbols
            part = np.empty(min(stream.symbols, stream.count - first), np.uint8)
            _coders()[stream.coder].decode(coded, stream.model, part)
            stop = min(first + part.size, end)
            out[max(first, start) - start : stop - start] = part[max(start - first, 0) : stop - first]


def is_difference(head: Head) -> bool:
    """Whether a record needs a base."""
    return head.node.kind == Difference.KIND


def _way(head: Head, name: str) -> int | None:
    if head.node.kind == Dense.KIND and head.node.settings == (dtype_of(head.dtype).number,):
        return None
    if is_difference(head):
        dtype, way = Difference.parts(head.node)
        if dtype.name == head.dtype:
            return way
    raise FormatError(f"{name} is not packed without loss", "its record holds another code")


@functools.cache
def _coders() -> dict[int, Coder]:
    return {coder.ID: coder for coder in coders().values()}
