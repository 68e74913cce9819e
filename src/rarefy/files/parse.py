"""Reading a record's head, whoever wrote it: every number is checked before anything is made as large as it says."""

from __future__ import annotations

import math
from typing import Final

from rarefy.codes.base import Node, kind_of, names
from rarefy.codes.dtypes import BY_NUMBER
from rarefy.entropy import coders
from rarefy.entropy.stream import TILE_SYMBOLS
from rarefy.errors import FormatError
from rarefy.files.head import COUNT, FLAGS, INLINE, RAW, Head, Tiles, checksum, checksum_size
from rarefy.files.varint import Cursor

MAX_ELEMENTS: Final = 1 << 48
MAX_DIMENSIONS: Final = 32
MAX_DEPTH: Final = 16
MAX_NODES: Final = 1024
MAX_STREAMS: Final = 4096
PREFIX: Final = 9
"""Bytes of a record from which the size of its head is known."""

_NEWER: Final = "open it with a newer rarefy"


def head_size(prefix: bytes | memoryview) -> int:
    """Bytes of a record's head with its checksum, from the record's first PREFIX bytes (or all, when fewer)."""
    cursor = Cursor(prefix, "the head")
    covered = cursor.varint() + cursor.at
    return covered + checksum_size(covered)


def parse_head(data: bytes | memoryview) -> Head:
    """The head at the start of `data`. Raises FormatError when it is damaged or from a newer version."""
    size = head_size(data)
    if size > len(data):
        raise FormatError("the head ends early")
    cursor = Cursor(data, "the head")
    end = cursor.varint() + cursor.at
    covered = memoryview(data)[:end]
    if checksum(covered) != bytes(data[end:size]):
        raise FormatError("the head's checksum is wrong")
    return _Reader(covered, cursor.at).head(size)


def read_shape(cursor: Cursor, dimensions: int) -> tuple[int, ...]:
    """So many dimensions. Raises FormatError for too many, or too large ones."""
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"a record has {dimensions} dimensions, more than {MAX_DIMENSIONS}")
    shape = tuple(cursor.varint() for _ in range(dimensions))
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise FormatError("a record's shape is too large")
    return shape


def read_node(cursor: Cursor) -> Node:
    """A tree of codes. Raises FormatError for unknown kinds, and for trees that are too deep or too large."""
    left = MAX_NODES

    def node(depth: int) -> Node:
        nonlocal left
        left -= 1
        if depth == MAX_DEPTH or left < 0:
            raise FormatError(f"codes are nested deeper than {MAX_DEPTH} or more than {MAX_NODES}")
        kind, arity = divmod(cursor.varint(), 32)
        kind_of(Node(kind, ()))
        settings, children = divmod(arity, 4)
        values = tuple(cursor.varint() for _ in range(settings))
        return Node(kind, values, tuple(node(depth + 1) for _ in range(children)))

    return node(0)


class _Reader:
    """One pass over a head whose checksum is right, which says nothing about who wrote it."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.cursor = Cursor(data, "the head", at)
        self.coders = {coder.ID for coder in coders().values()}

    def head(self, size: int) -> Head:
        shape, dtype = self.shape()
        node = read_node(self.cursor)
        called = tuple(names(node))
        streams: list[Tiles] = []
        before = math.prod(shape)
        while self.cursor.left and len(streams) < MAX_STREAMS:
            streams.append(self.stream(before))
            before = streams[-1].count
        if self.cursor.left or len(called) != len(streams):
            raise FormatError(f"the record has {len(streams)} streams or more where its codes have {len(called)}")
        return Head(shape, dtype, node, called, tuple(streams), size)

    def shape(self) -> tuple[tuple[int, ...], str]:
        dimensions, number = divmod(self.cursor.varint(), 32)
        if number == FLAGS:
            raise FormatError(f"record flags {dimensions} are not known to this version", remedy=_NEWER)
        if number not in BY_NUMBER:
            raise FormatError(f"element type {number} is not known to this version", remedy=_NEWER)
        return read_shape(self.cursor, dimensions), BY_NUMBER[number].name

    def stream(self, before: int) -> Tiles:
        coder, flags = divmod(self.cursor.varint(), 4)
        if coder not in self.coders:
            raise FormatError(f"coder {coder} is not known to this version", remedy=_NEWER)
        count = self.cursor.varint() if flags & COUNT else before
        model = self.cursor.take(self.cursor.varint()) if coder != RAW else b""
        if flags & INLINE:
            _expect_tile(count)
            inline = self.cursor.take(count if coder == RAW else self.cursor.varint())
            return Tiles(coder, count, model, count, (len(inline),), inline=inline)
        return self.tiles(coder, count, model)

    def tiles(self, coder: int, count: int, model: bytes) -> Tiles:
        cursor = self.cursor
        tiles = cursor.varint() + 1
        if tiles > cursor.left // 4:
            raise FormatError("the head ends early")
        symbols = cursor.varint() if tiles > 1 else count
        _expect_tile(symbols)
        if not (tiles - 1) * symbols < count <= tiles * symbols:
            raise FormatError(f"{count} symbols do not make {tiles} tiles of {symbols}")
        sizes, checks = [], []
        for tile in range(tiles):
            sizes.append(min(symbols, count - tile * symbols) if coder == RAW else cursor.varint())
            checks.append(int.from_bytes(cursor.take(4), "little"))
        return Tiles(coder, count, model, symbols, tuple(sizes), tuple(checks))


def _expect_tile(symbols: int) -> None:
    if symbols > TILE_SYMBOLS:
        raise FormatError(f"a tile has {symbols} symbols, more than {TILE_SYMBOLS}")
