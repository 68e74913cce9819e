"""Records of a small network without what they say twice: no lengths, no checksum each, no code that is the last one's.

A network of five tensors has some 80 bytes to spare beside a safetensors header, less than five ordinary heads take.
The form is one of transport: a reader turns each back into the very record that it was made of.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rarefy.codes import Grid, Node
from rarefy.codes.base import matrix, names
from rarefy.codes.dtypes import dtype_of
from rarefy.errors import FormatError
from rarefy.files.head import FLAGS, INLINE_BYTES, RAW, Head, Tiles, write_head, write_node
from rarefy.files.parse import MAX_ELEMENTS, parse_head, read_node, read_shape
from rarefy.files.varint import Cursor, varint
from rarefy.native import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SAME: Final = 16
"""Added to an element type: the code is that of the last record with as many dimensions."""

BEFORE, ELEMENTS, WRITTEN = range(3)
"""How many symbols a stream has: as many as the one before it (the first: elements), elements, or a number."""


def write(records: Iterable[bytes]) -> bytes | None:
    """Compact forms of ordinary records, one after the other; None when there is one that has none."""
    records = list(records)
    out, nodes = bytearray(), dict[int, Node]()
    for record in records:
        head = parse_head(record)
        if any(len(stream.sizes) > 1 for stream in head.streams):
            return None
        _write(head, record, nodes, out)
    cursor = Cursor(bytes(out), "what was written")
    # Who wrote a record may have chosen another place for a stream than we do.
    return bytes(out) if [record for record, _ in read(cursor, len(records))] == records else None


def read(cursor: Cursor, count: int) -> Iterator[tuple[bytes, int]]:
    """`count` ordinary records from their compact forms, and the bytes of each form. Raises FormatError."""
    nodes: dict[int, Node] = {}
    for _ in range(count):
        before = cursor.at
        yield _read(cursor, nodes), cursor.at - before


def _write(head: Head, record: bytes, nodes: dict[int, Node], out: bytearray) -> None:
    shape, node = head.shape, _implied(head.node, head.shape)
    same = nodes.get(len(shape)) == node
    out += varint(dtype_of(head.dtype).number + SAME * same + 32 * len(shape))
    out += b"".join(map(varint, shape))
    if not same:
        write_node(node, out)
    nodes[len(shape)] = node
    before = elements = math.prod(shape)
    for stream, at in zip(head.streams, head.offsets, strict=False):
        how = BEFORE if stream.count == before else ELEMENTS if stream.count == elements else WRITTEN
        before = stream.count
        coded = record[at : at + stream.coded] if stream.inline is None else stream.inline
        out += varint(4 * stream.coder + how)
        if how == WRITTEN:
            out += varint(stream.count)
        if stream.coder != RAW:
            out += varint(len(stream.model)) + stream.model + varint(len(coded))
        out += coded


def _read(cursor: Cursor, nodes: dict[int, Node]) -> bytes:
    first = cursor.varint()
    dimensions, number = divmod(first, 32)
    if number == FLAGS:
        raise FormatError(f"{cursor.what} has a record of a later version", remedy="open it with a newer rarefy")
    shape = read_shape(cursor, dimensions)
    if number >= SAME:
        if dimensions not in nodes:
            raise FormatError(f"{cursor.what} has a record without a code")
    else:
        nodes[dimensions] = read_node(cursor)
    node = _told(nodes[dimensions], shape)
    before, streams, tiles = math.prod(shape), [], []
    for _ in names(node):
        coder, how = divmod(cursor.varint(), 4)
        count = cursor.varint() if how == WRITTEN else math.prod(shape) if how == ELEMENTS else before
        if how > WRITTEN or count > MAX_ELEMENTS:
            raise FormatError(f"{cursor.what} has a stream of no count")
        model = cursor.take(cursor.varint()) if coder != RAW else b""
        coded = cursor.take(cursor.varint() if coder != RAW else count)
        if len(coded) < INLINE_BYTES:
            streams.append(Tiles(coder, count, model, count, (len(coded),), inline=coded))
        else:
            streams.append(Tiles(coder, count, model, count, (len(coded),), (crc32(coded),)))
            tiles.append(coded)
        before = count
    return b"".join([write_head(shape, number % SAME, node, streams), *tiles])


def _implied(node: Node, shape: tuple[int, ...]) -> Node:
    """The node with group 0 for grids that have a group a row, so that those of all layers are alike."""
    return _regrouped(node, matrix(shape)[1], 0)


def _told(node: Node, shape: tuple[int, ...]) -> Node:
    """The inverse."""
    return _regrouped(node, 0, matrix(shape)[1])


def _regrouped(node: Node, old: int, new: int) -> Node:
    settings = node.settings
    if node.kind == Grid.KIND and len(settings) == 4 and settings[1] == old:
        settings = (settings[0], new, *settings[2:])
    return Node(node.kind, settings, tuple(_regrouped(child, old, new) for child in node.children))
