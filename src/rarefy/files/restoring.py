"""Records back to tensors in windows of some elements: bounded memory however large a tensor, on all cores."""

from __future__ import annotations

import functools
import math
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

    def view(self, name: str, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes of a record, valid until this thread asks for others."""
        ...

    def where(self, name: str) -> str:
        """What errors call the place of a record."""
        ...


class Stored(Records):
    """In files."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def view(self, name: str, start: int, size: int) -> NDArray[np.uint8]:
        data = _BUFFERS.take("coded", size)
        self._reader.part_into(name, start, data.data)
        return data

    def where(self, name: str) -> str:
        return str(self._reader.file(name))


class Held(Records):
    """In memory."""

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = {name: np.frombuffer(record, np.uint8) for name, record in records.items()}

    def view(self, name: str, start: int, size: int) -> NDArray[np.uint8]:
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
    tensors = (_Restored(records, *each, spare) for each in wanted)
    jobs = ((tensor, start) for tensor in tensors for start in range(0, tensor.count, WINDOW))
    for whole, size in in_order(lambda job: job[0].window(job[1]), jobs, threads):
        yield whole[:size]
        spare.append(whole)


class _Restored:
    """One record, restored in windows."""

    def __init__(
        self, records: Records, name: str, head: Head, base: TensorFile | None, spare: list[NDArray[np.uint8]]
    ) -> None:
        self.records, self.name, self.head, self.base, self.spare = records, name, head, base, spare
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

    def window(self, start: int) -> tuple[NDArray[np.uint8], int]:
        """A buffer that begins with the raw bytes of the elements from `start`, and how many these are."""
        size = min(WINDOW, self.count - start) * self.dtype.size
        planes = _BUFFERS.take("planes", size).reshape(self.dtype.size, -1)
        try:
            for i, plane in enumerate(planes):
                self._fill(i, start, plane)
        except FormatError as error:
            raise FormatError(f"{self.name} in {self.records.where(self.name)} is damaged", str(error)) from error
        whole = self._take(size)
        _kernels.join_planes(planes, rotated(self.dtype, self.way), whole[:size])
        if self.base is not None and self.way is not None:
            base = _BUFFERS.take("base", size)
            self.base.read_into(self.name, start * self.dtype.size, base.data)
            unsigned = f"<u{self.dtype.size}"
            bits = together(whole[:size].view(unsigned), base.view(unsigned), self.dtype, self.way)
            whole = bits.view(np.uint8)
        return whole, size

    def _take(self, size: int) -> NDArray[np.uint8]:
        try:
            whole = self.spare.pop()
        except IndexError:
            whole = np.empty(WINDOW * 2, np.uint8)
        return whole if whole.size >= size else np.empty(size, np.uint8)

    def _fill(self, i: int, start: int, out: NDArray[np.uint8]) -> None:
        """Symbols start .. start + out.size of plane i."""
        stream, end = self.head.streams[i], start + out.size
        which = _coders()[stream.coder]
        if stream.inline is not None:
            whole = np.empty(stream.count, np.uint8)
            which.decode(stream.inline, stream.model, whole)
            out[:] = whole[start:end]
            return
        step = stream.symbols
        tiles = slice(start // step, -(-end // step))
        begin = int(self.ends[i][tiles.start] - self.sizes[i][tiles.start])
        data = self.records.view(self.name, begin, int(self.ends[i][tiles.stop - 1]) - begin)
        whole_tiles = start % step == 0 and (end % step == 0 or end == stream.count)
        if stream.coder == rans_tiles.CODER.ID and not stream.model and whole_tiles:
            damaged = rans_tiles.decode_tiles(data, step, self.sizes[i][tiles], self.checks[i][tiles], out)
            if damaged is not None:
                name = tile_name(self.head.names[i], tiles.start + damaged)
                raise FormatError(f"{name} is damaged", "its checksum is wrong, or it is not one")
            return
        self._one_by_one(i, start, out, tiles, data)

    def _one_by_one(self, i: int, start: int, out: NDArray[np.uint8], tiles: slice, data: NDArray[np.uint8]) -> None:
        """The same for any coder, and for tiles that begin and end anywhere."""
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
