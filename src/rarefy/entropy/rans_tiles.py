"""rANS with a table for each tile, for streams that change as they go on: half of a network's numbers may have been
rounded to another type, some rows of an embedding never trained.

A tile is varint m, m bytes of a table (`entropy.table`), a rANS stream under it (`entropy.rans`); or, where that takes
off less than 0.5 %, the byte 0 and the symbols as they are. The model of the stream is empty, so tiles can be coded
while a file is still being read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from rarefy.entropy.stream import TILE_BYTES
from rarefy.errors import FormatError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given

MAX_SYMBOLS: Final = 1 << 18
"""Most symbols that this writer puts in a tile: four times the TILE_BYTES, in which the rest of a table is repaid."""

SAMPLE: Final = 1 << 16
"""The fewest, and those by which the number is chosen."""

BLOCK: Final = 1 << 12
"""Symbols by which planes are decoded together."""


class RansTiles:
    """The coder `rans_tiles`: a static table a tile."""

    ID: ClassVar[int] = 8

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        flat = np.ascontiguousarray(symbols).reshape(-1)
        step = tile_symbols(flat)
        return 8 * sum(_kernels.tile_bytes(flat[i : i + step]) for i in range(0, flat.size, step))

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        return b""

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        return tile_symbols(symbols)

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        return encode(symbols)

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        if model:
            raise FormatError("a stream of tiles with tables has a model of its own")
        try:
            _kernels.decode_tile(np.frombuffer(data, np.uint8), out)
        except ValueError as error:
            raise FormatError("a rANS tile is malformed", str(error)) from error


def encode(symbols: NDArray[np.uint8]) -> bytes:
    """One tile of `symbols` (uint8, any shape, row-major)."""
    return _kernels.encode_tile(np.ascontiguousarray(symbols).reshape(-1))


def encode_tiles(symbols: NDArray[np.uint8], step: int) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    """Tiles of `step` symbols one after the other, the bytes of each, and the CRC-32 of each."""
    count = -(-symbols.size // step)
    sizes, checks = np.empty(count, np.int64), np.empty(count, np.int64)
    return _kernels.encode_tiles(symbols, step, sizes, checks), sizes, checks


def decode_window(
    data: list[NDArray[np.uint8]],
    steps: list[int],
    sizes: list[NDArray[np.int64]],
    checks: list[NDArray[np.int64]],
    rotate: bool,
    out: NDArray[np.uint8],
) -> tuple[int, int] | None:
    """Fill `out` with elements from what `encode_tiles` made of each of their byte planes, the highest first.

    rotate: elements are rotated right by one bit. Steps are multiples of BLOCK, unless one tile is all of its plane.
    The plane and the tile in it that were first found damaged, if any; `out` is undefined then.
    """
    return _kernels.decode_window(data, steps, sizes, checks, rotate, out)


def tile_symbols(symbols: NDArray[np.uint8]) -> int:
    """Symbols a tile of about TILE_BYTES, by the first SAMPLE symbols: a power of two, so that planes of one tensor
    have tiles that begin together."""
    first = np.ascontiguousarray(symbols).reshape(-1)[:SAMPLE]
    if first.size < SAMPLE:
        return SAMPLE
    step = MAX_SYMBOLS
    while step > SAMPLE and step * _kernels.tile_bytes(first) > 1.5 * TILE_BYTES * first.size:
        step //= 2
    return step


CODER = RansTiles()
