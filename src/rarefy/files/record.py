"""A record: one parameter as bytes. Its head says what it is; tiles follow, each coded and checked by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

from rarefy.codes.base import read as read_code
from rarefy.codes.dtypes import dtype_of
from rarefy.entropy import Coder, coders
from rarefy.entropy import coder as by_name
from rarefy.entropy.choice import choice
from rarefy.entropy.stream import TILE_SYMBOLS
from rarefy.errors import FormatError
from rarefy.files.head import INLINE_BYTES, Head, Tiles, write_head
from rarefy.files.parse import PREFIX, head_size, parse_head
from rarefy.native import crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.entropy import Stream
    from rarefy.entropy.stream import Given

T = TypeVar("T")

SMALL: Final = 4096
"""Streams of no more symbols may also be coded in contexts, which need no table; slowly, but that is a millisecond."""

_SPARSE: Final = 1 / 32
"""Of streams that take fewer bytes a symbol the same is true: a table's law knows no empty rows and columns."""

_WORTH: Final = 0.995
"""A coder must take off this much: bytes as they are decode at the speed of memory."""


def encode(code: Code, dtype: str, coder: str | None = None, threads: int = 1) -> bytes:
    """One parameter's record.

    dtype: the element type that the parameter had and is restored to, by its safetensors name.
    coder: for every stream that it makes smaller, or "archive" (`entropy.choice`); by estimates when None.
    threads: tiles coded at once; the bytes do not depend on it.

    Raises UsageError for an unknown coder, FormatError for an unknown dtype.
    """
    choices, contexts = [by_name(name) for name in choice(coder)], by_name("context")
    coded = []
    for stream in code.streams():
        if coder is not None:
            coded.append(_shortest(stream, choices, threads))
        elif stream.symbols.size <= SMALL:
            coded.append(_shortest(stream, [*choices, contexts], threads))
        else:
            coded.append(_likely(stream, choices, threads))
            if coded[-1][0].coded < _SPARSE * stream.symbols.size:
                coded[-1] = min(coded[-1], _encode(stream, contexts, threads), key=_size)
    head = write_head(code.shape, dtype_of(dtype).number, code.node(), [stream for stream, _ in coded])
    return b"".join([head, *(tile for _, tiles in coded for tile in tiles)])


def decode(data: bytes | memoryview, threads: int = 1) -> tuple[Code, str]:
    """The code and element type that a record holds. Raises FormatError naming the stream and tile that is damaged."""
    head = parse(data)
    source = _Source(memoryview(data), head, threads)
    code = read_code(head.shape, head.node, source)
    if source.at != len(head.streams):
        raise FormatError(f"a record has {len(head.streams)} streams where its codes have {source.at}")
    return code, head.dtype


def parse(data: bytes | memoryview, size: int | None = None) -> Head:
    """The head of a record, without looking at its tiles.

    data: the record, or its first `head_size` bytes with `size`, the bytes of the whole.

    Raises FormatError when the head is damaged or the record has another size than it says.
    """
    head = parse_head(data)
    size = len(data) if size is None else size
    if head.total != size:
        raise FormatError(f"a record has {size} bytes where its head says {head.total}")
    return head


def check(data: bytes | memoryview) -> list[str]:
    """What is damaged: "head", or tiles such as "stream values, tile 3" (from 0)."""
    try:
        head = parse(data)
    except FormatError:
        return ["head"]
    view = memoryview(data)
    damaged = []
    for name, stream, at in zip(head.names, head.streams, head.offsets, strict=False):
        for i, (size, expected) in enumerate(zip(stream.sizes, stream.checks, strict=False)):
            if crc32(view[at : at + size]) != expected:
                damaged.append(tile_name(name, i))
            at += size
    return damaged


def tile_name(stream: str, tile: int) -> str:
    """What reports call a tile."""
    return f"stream {stream}, tile {tile}"


_Coded: TypeAlias = tuple[Tiles, list[bytes]]
"""A stream's place in the head, and its tiles, none when they stand in the head."""


def _likely(stream: Stream, choices: Sequence[Coder], threads: int) -> _Coded:
    """Coded by the one that says it will be shortest."""
    symbols, given = np.ascontiguousarray(stream.symbols), stream.given
    best = raw = choices[0]
    if symbols.size:
        best = min(choices, key=lambda c: c.estimate(symbols, given) / (_WORTH if c is not raw else 1))
    coded = _encode(stream, best, threads)
    place, _ = coded
    return coded if best is raw or len(place.model) + place.coded < symbols.size else _encode(stream, raw, threads)


def _shortest(stream: Stream, choices: Sequence[Coder], threads: int) -> _Coded:
    """Coded by the one with which it is shortest, found by trying: coders that adapt have no other estimate."""
    best = _encode(stream, choices[0], threads)
    for coder in choices[1:] if stream.symbols.size else ():
        best = min(best, _encode(stream, coder, threads), key=_size)
    return best


def _size(coded: _Coded) -> int:
    return coded[0].size


def _encode(stream: Stream, best: Coder, threads: int) -> _Coded:
    """Coded by `best`."""
    symbols, given = np.ascontiguousarray(stream.symbols), stream.given
    model = best.fit(symbols, given)
    step = max(1, min(best.tile_symbols(model, symbols, given), TILE_SYMBOLS))
    flat, flat_given = symbols.reshape(-1), _flat(given)
    tiles = _map(
        lambda i: best.encode(flat[i : i + step], model, _part(flat_given, i, i + step)),
        range(0, flat.size, step),
        threads,
    )
    coded = sum(map(len, tiles))
    if coded < INLINE_BYTES and len(tiles) <= 1:
        return Tiles(best.ID, flat.size, model, flat.size, (coded,), inline=b"".join(tiles)), []
    checks = tuple(crc32(tile) for tile in tiles)
    return Tiles(best.ID, flat.size, model, step, tuple(map(len, tiles)), checks), tiles


def _flat(given: Given) -> Given:
    return None if given is None else np.ascontiguousarray(given).reshape(-1)


def _part(given: Given, start: int, stop: int) -> Given:
    return None if given is None else given[start:stop]


class _Source:
    """Decodes a record's streams one after the other."""

    def __init__(self, data: memoryview, head: Head, threads: int) -> None:
        self.data, self.head, self.threads = data, head, threads
        self.coders = {coder.ID: coder for coder in coders().values()}
        self.at = 0

    def next(self, count: int, given: Given = None) -> NDArray[np.uint8]:
        if self.at == len(self.head.streams):
            raise FormatError("a record has fewer streams than its codes")
        name, stream = self.head.names[self.at], self.head.streams[self.at]
        if stream.count != count:
            raise FormatError(f"stream {name} has {stream.count} symbols where its code has {count}")
        given = _flat(given)
        if given is not None and given.size != count:
            raise ValueError(f"stream {name} of {count} symbols is given {given.size} scale indices")
        out = np.empty(count, np.uint8)
        coder = self.coders[stream.coder]
        if stream.inline is not None:
            _named(name, 0, lambda: coder.decode(stream.inline or b"", stream.model, out, given))
        else:
            self._decode_tiles(name, stream, coder, out, given)
        self.at += 1
        return out

    def _decode_tiles(self, name: str, stream: Tiles, coder: Coder, out: NDArray[np.uint8], given: Given) -> None:
        starts = np.cumsum([self.head.offsets[self.at], *stream.sizes]).tolist()

        def one(tile: int) -> None:
            coded = self.data[starts[tile] : starts[tile + 1]]
            if crc32(coded) != stream.checks[tile]:
                raise FormatError(f"{tile_name(name, tile)} is damaged", "its checksum is wrong")
            start, stop = tile * stream.symbols, (tile + 1) * stream.symbols
            part = _part(given, start, stop)
            _named(name, tile, lambda: coder.decode(coded, stream.model, out[start:stop], part))

        # Of no more than the slowest coder puts into a tile, starting threads takes longer than decoding.
        _map(one, range(len(stream.sizes)), self.threads if stream.count > TILE_SYMBOLS else 1)


def _named(name: str, tile: int, decode: Callable[[], None]) -> None:
    """Decode one tile, its error saying where."""
    try:
        decode()
    except FormatError as error:
        raise FormatError(f"{tile_name(name, tile)} is damaged", str(error)) from error


def _map(function: Callable[..., T], items: Sequence[object], threads: int) -> list[T]:
    """function over items, on `threads` threads, results in order."""
    if threads <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))


__all__ = ["PREFIX", "Head", "check", "decode", "encode", "head_size", "parse", "tile_name"]
