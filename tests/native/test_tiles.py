"""Tiles with their own tables, byte planes and checksums against slow, literal versions."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.entropy import rans, rans_tiles
from rarefy.entropy.table import read_table, write_table
from rarefy.files.varint import Cursor, varint
from rarefy.native import _kernels, crc32, twin

RNG = np.random.default_rng(0)
SYMBOLS = {
    "one": np.array([7], np.uint8),
    "constant": np.full(70_000, 255, np.uint8),
    "short": RNG.integers(0, 5, 300).astype(np.uint8),
    "exponents": np.rint(RNG.normal(100, 2, 100_000)).astype(np.uint8),
    "many symbols": np.minimum(RNG.geometric(0.05, 40_000), 255).astype(np.uint8),
    "rare": (RNG.random(200_000) < 0.0005).astype(np.uint8),
}


@pytest.mark.parametrize("kind", SYMBOLS)
def test_a_tile_is_a_table_and_the_stream_under_it(kind: str) -> None:
    symbols = SYMBOLS[kind]
    tile = rans_tiles.encode(symbols)
    cursor = Cursor(tile, "tile")
    written = cursor.take(cursor.varint())
    if not written:
        assert tile[1:] == symbols.tobytes()
        return
    table = read_table(written)
    assert write_table(table.freqs, table.k, table.lanes) == written
    np.testing.assert_array_equal(table.freqs, rans.quantize_counts(rans.histogram(symbols), table.k))
    assert tile == varint(len(written)) + written + twin.rans_encode(symbols, table.freqs, table.k, table.lanes)
    np.testing.assert_array_equal(
        twin.rans_decode(tile[cursor.at :], symbols.size, table.freqs, table.k, table.lanes), symbols
    )


def test_uniform_symbols_stay_as_they_are() -> None:
    for size in (10, 5000, 100_000):
        symbols = RNG.integers(0, 256, size).astype(np.uint8)
        assert rans_tiles.encode(symbols) == b"\0" + symbols.tobytes()


def test_tiles_follow_what_changes() -> None:
    """One table for both halves costs the entropy of the mixture; a table for each does not."""
    symbols = np.concatenate([np.zeros(1 << 18, np.uint8), RNG.integers(0, 256, 1 << 18).astype(np.uint8)])
    coder = rans_tiles.CODER
    step = coder.tile_symbols(b"", symbols)
    size = sum(len(coder.encode(symbols[i : i + step], b"")) for i in range(0, symbols.size, step))
    assert size < 1.001 * (1 << 18) < 0.85 * rans.CODER.estimate(symbols) / 8


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_tile_or_refused(data: bytes, count: int) -> None:
    out = np.empty(count, np.uint8)
    try:
        _kernels.decode_tile(np.frombuffer(data, np.uint8), out)
    except ValueError:
        return
    assert data[:1] == b"\0" or len(data) > 2


@given(st.data())
def test_a_damaged_tile_is_refused_or_decodes_within_bounds(data: st.DataObject) -> None:
    tile = bytearray(rans_tiles.encode(SYMBOLS["short"]))
    at = data.draw(st.integers(0, len(tile) - 1))
    tile[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(tile)))
    for bad in (tile, tile[:cut]):
        out = np.empty(SYMBOLS["short"].size, np.uint8)
        try:
            _kernels.decode_tile(np.frombuffer(bytes(bad), np.uint8), out)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize("path", _kernels.paths())
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 3001])
def test_planes(path: str, width: int, count: int) -> None:
    elements = RNG.integers(0, 256, width * count).astype(np.uint8)
    for rotate in (False, True):
        values = [int.from_bytes(elements[i * width : (i + 1) * width].tobytes(), "little") for i in range(count)]
        if rotate:
            values = [(v << 1 | v >> 8 * width - 1) % (1 << 8 * width) for v in values]
        expected = [[v >> 8 * (width - 1 - p) & 0xFF for v in values] for p in range(width)]
        planes = np.empty((width, count), np.uint8)
        _kernels.split_planes(elements, rotate, planes, path)
        assert planes.tolist() == expected
        back = np.empty_like(elements)
        _kernels.join_planes(planes, rotate, back, path)
        np.testing.assert_array_equal(back, elements)


def coded(planes: np.ndarray, steps: list[int]) -> tuple[list, list, list]:
    made = [rans_tiles.encode_tiles(plane, step) for plane, step in zip(planes, steps, strict=True)]
    return [np.frombuffer(m[0], np.uint8) for m in made], [m[1] for m in made], [m[2] for m in made]


@pytest.mark.parametrize("path", _kernels.paths())
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [1, 4095, 8192, 30_001])
def test_a_window_is_its_planes_decoded_and_joined(path: str, width: int, count: int) -> None:
    """Planes that shrink (few lanes, all lanes) and planes that do not, with tiles of all lengths."""
    planes = RNG.integers(0, 256, (width, count)).astype(np.uint8)
    planes[::2] = np.rint(RNG.normal(100, 2, planes[::2].shape))
    for rotate, steps in ((False, [4096, 8192] * 4), (True, [1 << 16, 4096] * 4), (True, [count] * 8)):
        data, sizes, checks = coded(planes, steps[:width])
        joined, out = np.empty((2, width * count), np.uint8)
        _kernels.join_planes(planes, rotate, joined)
        assert _kernels.decode_window(data, steps[:width], sizes, checks, rotate, out, path) is None
        np.testing.assert_array_equal(out, joined)


def test_damage_in_a_window_is_found_where_it_is() -> None:
    planes = np.rint(RNG.normal(100, 2, (2, 20_000))).astype(np.uint8)
    steps = [4096, 8192]
    out = np.empty(planes.size, np.uint8)
    for plane, tile in ((0, 0), (0, 4), (1, 2)):
        data, sizes, checks = coded(planes, steps)
        data[plane] = data[plane].copy()
        data[plane][sizes[plane][:tile].sum() + 40] ^= 4
        assert _kernels.decode_window(data, steps, sizes, checks, False, out) == (plane, tile)
        own = data[plane][sizes[plane][:tile].sum() : sizes[plane][: tile + 1].sum()]
        checks[plane][tile] = zlib.crc32(own)  # a wrong tile under a right checksum
        assert _kernels.decode_window(data, steps, sizes, checks, False, out) == (plane, tile)
        short = [d[:-1] for d in coded(planes, steps)[0]]
        assert _kernels.decode_window(short, steps, sizes, coded(planes, steps)[2], False, out) in [(0, 4), (1, 2)]


def test_windows_that_cannot_be_are_refused() -> None:
    planes = np.zeros((2, 5000), np.uint8)
    data, sizes, checks = coded(planes, [4096, 4096])
    out = np.empty(10_000, np.uint8)
    for bad in (
        (data, [4096, 8192], sizes, checks, False, out),
        (data, [4096, 0], sizes, checks, False, out),
        (data, [4096, 4096], sizes, checks[:1], False, out),
        (data, [4096, 4096], sizes, [checks[0], checks[1][:1]], False, out),
        (data, [4096, 4096], sizes, checks, False, out[:-1]),
        ([], [], [], [], False, out),
        ([*data, data[0]], [4096] * 3, [*sizes, sizes[0]], [*checks, checks[0]], False, np.empty(15_000, np.uint8)),
        (*(lambda d, s, c: (d, [1000, 1000], s, c))(*coded(planes, [1000, 1000])), False, out),
    ):
        with pytest.raises(ValueError, match="differ|number|whole|wide"):
            _kernels.decode_window(*bad)


@pytest.mark.parametrize("path", _kernels.paths())
def test_crc32_is_zlibs(path: str) -> None:
    data = RNG.integers(0, 256, 5000).astype(np.uint8)
    for size in [*range(200), *range(250, 600), 1024, 4999]:
        assert _kernels.crc32(data[:size], path) == zlib.crc32(data[:size])
    assert crc32(b"123456789") == 0xCBF43926
