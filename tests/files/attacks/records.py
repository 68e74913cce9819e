"""Heads whose checksum is right, and tiles behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attacks import attack, spread
from rarefy.codes import Dense, Node
from rarefy.files import record
from rarefy.files.head import RAW, Tiles, checksum, write_head
from rarefy.files.varint import varint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from attacks import Make

DENSE = Node(0, (1,))
BELL = Dense.of(np.random.default_rng(0).normal(size=(90, 1000)).astype(np.float32), "BF16")
GRID = Node(1, (4, 2, 0, 0), (DENSE,))


def inline(symbols: bytes, coder: int = RAW, model: bytes = b"", count: int | None = None) -> Tiles:
    count = len(symbols) if count is None else count
    return Tiles(coder, count, model, count, (len(symbols),), inline=symbols)


def headed(shape: tuple[int, ...], node: Node, *streams: Tiles) -> Make:
    tiles = b"".join(bytes(stream.coded) for stream in streams if stream.inline is None)
    return spread(write_head(shape, 0, node, list(streams)) + tiles)


def body(raw: bytes) -> Make:
    """A head of these very bytes."""
    data = varint(len(raw)) + raw
    return spread(data + checksum(data))


def nested(depth: int) -> Node:
    node = DENSE
    for _ in range(depth):
        node = Node(2, (), (node,))
    return node


LOW = Node(5, (2,), (DENSE, DENSE))
SUM = Node(6, (), (DENSE, LOW))
AB, GRIDS = inline(b"ab"), [inline(b"ab")] * 3
for name, shape, node, streams, told in (
    ("more streams than codes", (2,), DENSE, [AB] * 3, "3 streams"),
    ("fewer streams than codes", (2,), DENSE, [AB], "1 streams"),
    ("more symbols than elements", (2,), DENSE, [AB, inline(b"abc")], "3 symbols where its code has 2"),
    ("more elements than symbols", (1 << 40,), DENSE, [AB, AB], "2 symbols"),
    ("a count that its tiles do not make", (2,), DENSE, [Tiles(RAW, 4, b"", 0, (2, 2), (0, 0))] * 2, "do not make"),
    ("an unknown kind of code", (2,), Node(99, ()), [], "kind 99"),
    ("an unknown type", (2,), Node(0, (77,)), [], "element type"),
    ("an unknown coder", (2,), DENSE, [inline(b"ab", 7)] * 2, "coder 7"),
    ("settings that a code has not", (2,), Node(2, (1,), (DENSE,)), [], "no settings"),
    ("a grid of nine bits", (2, 2), Node(1, (9, 2, 0, 0), (DENSE,)), GRIDS, "settings are off"),
    ("a grid of empty groups", (2, 2), Node(1, (4, 0, 0, 0), (DENSE,)), GRIDS, "settings are off"),
    ("a symbol off the grid", (2, 2), GRID, [AB, AB, inline(b"\x01\x02\x03\x10")], "off the grid"),
    (
        "factors larger than their product",
        (9, 9),
        Node(5, (5,), (DENSE, DENSE)),
        [AB] * 4,
        "more numbers than its matrix",
    ),
    ("a factor of rank 0", (9, 9), Node(5, (0,), (DENSE, DENSE)), [AB] * 4, "more numbers than its matrix"),
    ("a factor that is sparse", (9, 9), Node(5, (2,), (nested(1), DENSE)), [AB] * 5, "neither dense nor a grid"),
    ("a sum of a sum", (9, 9), Node(6, (), (Node(2, (), (SUM,)), LOW)), [AB] * 11, "other codes than it may be"),
    ("a sum of two grids", (9, 9), Node(6, (), (GRID, GRID)), [AB] * 6, "other codes than it may be"),
    ("a scale that is scaled", (9, 9), Node(7, (1, 0), (Node(7, (1, 0), (DENSE, DENSE)), GRID)), [], "may not hold"),
    ("a matrix turned twice", (9, 9), Node(9, (), (Node(9, (), (GRID,)),)), [AB] * 3, "may not hold"),
    ("more gaps than weights", (2,), Node(10, (3,), (DENSE,)), [inline(b"abc"), AB, AB], "more gaps than weights"),
    ("a gap past the end", (9,), Node(10, (2,), (DENSE,)), [inline(b"\x04\x04"), AB, AB], "lead past the last"),
    ("a gap that leads nowhere", (300,), Node(10, (2,), (DENSE,)), [inline(b"\x04\xff"), AB, AB], "lead past the last"),
    ("a turned vector", (9,), Node(9, (), (DENSE,)), [AB] * 2, "is of a matrix"),
    ("runs of no columns", (9, 9), Node(7, (0, 0), (DENSE, GRID)), [AB] * 5, "settings are off"),
    ("a grid whose scale is a grid", (2, 2), Node(1, (4, 2, 0, 0), (GRID,)), [AB] * 4, "scale is dense"),
):
    attack("lying", name, headed(shape, node, *streams), told)
for name, shape, node, streams, told in (
    ("a tensor of 2^62 elements, none at all", (1 << 62, 0), DENSE, [inline(b"")] * 2, "too large"),
    ("a tensor of 40 dimensions", (1,) * 40, DENSE, [inline(b"a")] * 2, "40 dimensions"),
    ("a tile of 2^21 symbols", (1 << 21,), DENSE, [inline(b"", 1, b"\0\0", 1 << 21)] * 2, "more than 1048576"),
    ("2^40 symbols in two tiles", (1 << 40,), DENSE, [Tiles(1, 1 << 40, b"", 1 << 20, (9, 9), (0, 0))] * 2, "not make"),
    ("codes inside codes, 20 deep", (2,), nested(20), [], "deeper"),
):
    attack("gigantic", name, headed(shape, node, *streams), told)
TILE = b"\x04\x02\0\0\0" + varint(2**50) + bytes(4)
attack("gigantic", "a tile of 2^50 bytes", body(b"\x20\x02\x04\x01" + 2 * TILE), "bytes where its head says")
attack("gigantic", "2^50 tiles", body(b"\x20\x02\x04\x01\x04\x02\0\0" + varint(2**50)), "ends early")
attack("gigantic", "3^16 codes", body(b"\x20\x02" + b"\x43" * 60), "ends early|deeper")


def tiles(change: Callable[[bytearray, tuple[int, ...], tuple[int, ...]], Any]) -> Make:
    """A record of several tiles, changed behind its head. change(data, offsets of tiles of a plane, sizes)."""

    def make(folder: Path) -> None:
        data = bytearray(record.encode(BELL, "F32", "raw"))
        head = record.parse(bytes(data))
        sizes = head.streams[1].sizes
        starts = tuple(np.cumsum([head.offsets[1], *sizes]).tolist())
        change(data, starts, sizes)
        spread(bytes(data))(folder)

    return make


def swap(data: bytearray, starts: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    half = sizes[1]
    one, two = (slice(at, at + half) for at in starts[:2])
    data[one], data[two] = data[two], data[one]


attack(
    "truncated",
    "a record without its last tile",
    tiles(lambda d, at, _: d.__delitem__(slice(at[-2], None))),
    "bytes where",
)
attack("truncated", "a record of a few bytes", spread(b"\x0c\x20"), "ends early")
attack(
    "oversized", "a record with bytes after its tiles", tiles(lambda d, *_: d.append(0)), "bytes where its head says"
)
attack("re-ordered", "tiles in another order", tiles(swap), "tile 0 is damaged")
attack(
    "lying", "a tile changed under its checksum", tiles(lambda d, at, _: d.__setitem__(at[1], 1 ^ d[at[1]])), "tile 1"
)
