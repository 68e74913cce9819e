"""Records back to tensors in windows of some elements: bounded memory however large a tensor, on all cores."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.difference import Difference, rotated, together
from rarefy.codes.dtypes import dtype_of
from rarefy.entropy import coders
from rarefy.errors import FormatError
from rarefy.files.buffers import Buffers
from rarefy.files.in_order import in_order
from rarefy.files.record import tile_name
from rarefy.files.windows import WINDOW
from rarefy.native import _kernels, crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from rarefy.entropy import Coder
    from rarefy.files.container import Reader
    from rarefy.files.head import Head
    from rarefy.files.safetensors import TensorFile

_BUFFERS: Final = Buffers()


def restore(
    reader: Reader, wanted: Iterable[tuple[str, Head, TensorFile | None]], threads: int
) -> Iterator[NDArray[np.uint8]]:
    """Raw bytes of tensors, window after window.

    wanted: names and heads, with the file that holds the base of those that are differences.

    Raises FormatError naming the tensor and tile that is damaged, or for a record that is neither dense nor a
    difference.
    """
    records = (_Restored(reader, *each) for each in wanted)
    jobs = ((record, start) for record in records for start in range(0, record.count, WINDOW))
    return in_order(lambda job: job[0].window(job[1]), jobs, threads)


class _Restored:
    """One record, restored in windows."""

    def __init__(self, reader: Reader, name: str, head: Head, base: TensorFile | None) -> None:
        self.reader, self.name, self.head, self.base = reader, name, head, base
        self.dtype = dtype_of(head.dtype)
        self.count = math.prod(head.shape)
        self.way = _way(head, name)
        if (self.way is not None) != (base is not None):
            raise FormatError(f"{name} is not what the manifest says", "one of them calls it a difference")
        self.starts = [np.cumsum([at, *s.sizes]).tolist() for at, s in zip(head.offsets, head.streams, strict=False)]
        for stream in head.streams:
            if stream.count != self.count:
                raise FormatError(f"{name} is damaged", "a plane has another number of symbols than the tensor")

    def window(self, start: int) -> NDArray[np.uint8]:
        """Raw bytes of the elements from `start`."""
        count = min(WINDOW, self.count - start)
        planes = _BUFFERS.take("planes", self.dtype.size * count).reshape(self.dtype.size, count)
        try:
            for i, plane in enumerate(planes):
                self._fill(i, start, plane)
        except FormatError as error:
            raise FormatError(f"{self.name} in {self.reader.file(self.name)} is damaged", str(error)) from error
        raw = np.empty(planes.size, np.uint8)
        _kernels.join_planes(planes, rotated(self.dtype, self.way), raw)
        if self.base is None or self.way is None:
            return raw
        base = _BUFFERS.take("base", raw.size)
        self.base.read_into(self.name, start * self.dtype.size, base.data)
        unsigned = f"<u{self.dtype.size}"
        return together(raw.view(unsigned), base.view(unsigned), self.dtype, self.way).view(np.uint8)

    def _fill(self, i: int, start: int, out: NDArray[np.uint8]) -> None:
        """Symbols start .. start + out.size of plane i; tiles may begin and end anywhere."""
        stream, end = self.head.streams[i], start + out.size
        which = _coders()[stream.coder]
        if stream.inline is not None:
            whole = np.empty(stream.count, np.uint8)
            which.decode(stream.inline, stream.model, whole)
            out[:] = whole[start:end]
            return
        first, last = start // stream.symbols, -(-end // stream.symbols)
        at = self.starts[i]
        data = _BUFFERS.take("coded", at[last] - at[first]).data
        self.reader.part_into(self.name, at[first], data)
        for tile in range(first, last):
            coded = data[at[tile] - at[first] : at[tile + 1] - at[first]]
            if crc32(coded) != stream.checks[tile]:
                raise FormatError(f"{tile_name(self.head.names[i], tile)} is damaged", "its checksum is wrong")
            begin, stop = tile * stream.symbols, min((tile + 1) * stream.symbols, stream.count)
            if start <= begin and stop <= end:
                which.decode(coded, stream.model, out[begin - start : stop - start])
                continue
            whole = np.empty(stop - begin, np.uint8)
            which.decode(coded, stream.model, whole)
            out[max(begin, start) - start : min(stop, end) - start] = whole[max(start - begin, 0) : end - begin]


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
