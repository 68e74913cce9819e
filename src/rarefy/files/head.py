"""The head of a record: shape, element type, the tree of codes, and where each stream's tiles are."""

from __future__ import annotations

import binascii
import functools
import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from rarefy.entropy import coders
from rarefy.files.varint import varint
from rarefy.native import crc32

if TYPE_CHECKING:
    from rarefy.codes import Node

FLAGS: Final = 31
"""In the place of an element type: flags follow that this version does not have."""

RAW: Final = 0
"""The coder without a model, whose coded size is its number of symbols."""

INLINE, COUNT = 1, 2
"""Flags of a stream: its coded bytes stand in the head; its number of symbols is written."""

INLINE_BYTES: Final = 1024
"""Streams of fewer coded bytes stand in the head, under its checksum, instead of paying for their own."""

_SHORT: Final = 2048


@dataclass(frozen=True)
class Tiles:
    """One stream as a head describes it.

    count: symbols in the stream.
    symbols: in each tile but the last, which may be shorter.
    sizes: coded bytes of each tile.
    checks: CRC-32 of each tile; empty when the stream stands in the head, as `inline`.
    """

    coder: int
    count: int
    model: bytes
    symbols: int
    sizes: tuple[int, ...]
    checks: tuple[int, ...] = ()
    inline: bytes | None = None

    @functools.cached_property
    def coded(self) -> int:
        """Bytes of all tiles."""
        return sum(self.sizes)

    @property
    def size(self) -> int:
        """Bytes of all that is written of the stream."""
        place = bytearray()
        _write_stream(self, self.count, place)
        return len(place) + (self.coded if self.inline is None else 0)


@dataclass(frozen=True)
class Head:
    """A record without its payload.

    shape, dtype: the parameter's own.
    node: the tree of codes.
    names: of the streams, in order, as reports call them.
    size: bytes of the head with its checksum; tiles follow in the order of the streams.
    """

    shape: tuple[int, ...]
    dtype: str
    node: Node
    names: tuple[str, ...]
    streams: tuple[Tiles, ...]
    size: int

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each stream's tiles start in the record, and last the record's size."""
        outside = (0 if s.inline is not None else s.coded for s in self.streams)
        return tuple(accumulate(outside, initial=self.size))

    @property
    def total(self) -> int:
        """Bytes of the whole record."""
        return self.offsets[-1]

    def coder_names(self) -> tuple[str, ...]:
        """The name of each stream's coder."""
        names = {coder.ID: name for name, coder in coders().items()}
        return tuple(names[s.coder] for s in self.streams)


def checksum_size(covered: int) -> int:
    """Bytes of the checksum over `covered` bytes."""
    return 2 if covered < _SHORT else 4


def checksum(data: bytes | memoryview) -> bytes:
    """Of a head: CRC-16 (CCITT, initial value 0xFFFF) of fewer than 2,048 bytes, CRC-32 of more; little-endian."""
    value = binascii.crc_hqx(data, 0xFFFF) if len(data) < _SHORT else crc32(data)
    return value.to_bytes(checksum_size(len(data)), "little")


def write_head(shape: tuple[int, ...], dtype: int, node: Node, streams: list[Tiles]) -> bytes:
    """The bytes of a head, checksum included. dtype: its number in files."""
    body = bytearray(varint(dtype + 32 * len(shape)))
    for size in shape:
        body += varint(size)
    write_node(node, body)
    before = math.prod(shape)
    for stream in streams:
        _write_stream(stream, before, body)
        before = stream.count
    head = varint(len(body)) + bytes(body)
    return head + checksum(head)


def write_node(node: Node, out: bytearray) -> None:
    """Append the bytes of a tree of codes."""
    if len(node.settings) > 7 or len(node.children) > 3:
        raise ValueError(f"code kind {node.kind} has more than 7 settings or 3 codes inside")
    out += varint(len(node.children) + 4 * len(node.settings) + 32 * node.kind)
    for value in node.settings:
        out += varint(value)
    for child in node.children:
        write_node(child, out)


def _write_stream(stream: Tiles, before: int, out: bytearray) -> None:
    flags = (INLINE if stream.inline is not None else 0) | (COUNT if stream.count != before else 0)
    out += varint(4 * stream.coder + flags)
    if flags & COUNT:
        out += varint(stream.count)
    if stream.coder != RAW:
        out += varint(len(stream.model)) + stream.model
    if stream.inline is not None:
        if stream.coder != RAW:
            out += varint(len(stream.inline))
        out += stream.inline
        return
    out += varint(len(stream.sizes) - 1)
    if len(stream.sizes) > 1:
        out += varint(stream.symbols)
    for size, check in zip(stream.sizes, stream.checks, strict=True):
        if stream.coder != RAW:
            out += varint(size)
        out += check.to_bytes(4, "little")
