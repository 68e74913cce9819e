"""Records: round trips, exact bytes, damage, lies."""

from __future__ import annotations

import tracemalloc

import golden
import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.codes import Codebook, Dense, Grid, Node, Sparse, kinds
from rarefy.codes.dtypes import DTYPES
from rarefy.codes.separable import Separable
from rarefy.entropy import Stream, coders
from rarefy.errors import FormatError, UsageError
from rarefy.files import record
from rarefy.files.head import RAW, Tiles, checksum, write_head
from rarefy.files.varint import Cursor, varint

BF16, F32 = 1, 0


def same(a: object, b: object) -> None:
    """Equal in every bit."""
    assert type(a) is type(b)
    if isinstance(a, Dense):
        assert a.dtype == b.dtype
        assert a.raw().shape == b.raw().shape == a.shape == b.shape
        assert a.raw().tobytes() == b.raw().tobytes()
    elif isinstance(a, Grid):
        assert a.settings() == b.settings()
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.q, b.q)
        np.testing.assert_array_equal(a.zero_points(), b.zero_points())
        same(a.scale, b.scale)
    elif isinstance(a, Codebook):
        assert a.order == b.order
        np.testing.assert_array_equal(a.index, b.index)
        same(a.centroids, b.centroids)
    elif isinstance(a, Separable):
        for one, other in ((a.q, b.q), (a.rows, b.rows), (a.columns, b.columns)):
            np.testing.assert_array_equal(one, other)
        same(a.points, b.points)
    else:
        if isinstance(a, Sparse):
            np.testing.assert_array_equal(a.keep, b.keep)
        assert a.settings() == b.settings()
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(a.decode(), b.decode())


def read(data: bytes, threads: int = 1) -> object:
    return record.decode(data, threads)[0]


@settings(deadline=None)
@given(strategies.codes())
def test_round_trip(code: object) -> None:
    data = record.encode(code, "F16")
    back, dtype = record.decode(data)
    assert dtype == "F16"
    same(code, back)
    assert record.check(data) == []
    assert record.encode(back, "F16") == data


@pytest.mark.parametrize("coder", [None, "raw", "rans"])
@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_and_threads(coder: str | None, threads: int) -> None:
    values = np.random.default_rng(0).normal(size=(700, 900)).astype(np.float32)
    code = Dense.of(values, "BF16")
    data = record.encode(code, "F32", coder, threads)
    assert data == record.encode(code, "F32", coder)
    assert any(len(stream.sizes) > 3 for stream in record.parse(data).streams)
    same(code, read(data, threads))


def test_coders_are_chosen_by_stream() -> None:
    head = record.parse(record.encode(Dense.of(np.random.default_rng(0).normal(size=9999).astype(np.float32)), "F32"))
    assert head.coder_names() == ("rans", "raw", "raw", "raw")
    assert head.names == ("plane0", "plane1", "plane2", "plane3")
    with pytest.raises(UsageError, match="no coder"):
        record.encode(Dense.of(np.zeros(3, np.float32)), "F32", "morse")


@pytest.mark.parametrize("name", sorted(golden.CODES))
def test_golden_records_open_and_are_still_written(name: str) -> None:
    data = (golden.FOLDER / f"{name}.record").read_bytes()
    code, dtype = golden.CODES[name]()
    back, original = record.decode(data)
    same(code, back)
    assert original == dtype
    if not name.startswith("separable"):  # whose spreads are a fit, in floating point
        assert golden.written(name) == data


@pytest.mark.parametrize("name", sorted(golden.DIFFERENCES))
def test_golden_differences_open_and_are_still_written(name: str) -> None:
    data = (golden.FOLDER / f"{name}.record").read_bytes()
    values, base, dtype, way = golden.DIFFERENCES[name]()
    back, original = record.decode(data)
    assert (original, back.way) == (dtype.name, way)
    assert back.against(base).tobytes() == values.tobytes()
    assert golden.written(name) == data


def test_exact_bytes() -> None:
    code = Dense.of(np.array([1, -2, 0.5], np.float32), "BF16")
    data = bytes.fromhex("0c 20 03 04 01 01 7f 80 7e 01 00 01 00 67 7c")
    assert record.encode(code, "F32") == data
    same(code, read(data))


def test_overhead_of_a_tiny_tensor() -> None:
    data = record.encode(Dense.of(np.arange(10, dtype=np.float32)), "F32", "raw")
    assert len(data) <= 40 + 20


def test_every_flipped_bit_is_placed() -> None:
    rng = np.random.default_rng(0)
    data = record.encode(Dense.of(rng.normal(size=1100).astype(np.float32)), "F32")
    head = record.parse(data)
    for bit in [*range(8 * head.size), *range(8 * head.size, 8 * len(data), 7)]:
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        stream = sum(bit // 8 >= at for at in head.offsets) - 1
        expected = "head" if stream < 0 else f"stream plane{stream}, tile 0"
        assert record.check(bytes(bad)) == [expected]


def test_damage_names_its_tile() -> None:
    data = bytearray(record.encode(Dense.of(np.random.default_rng(0).normal(size=10**6).astype(np.float32)), "F32"))
    head = record.parse(bytes(data))
    at = head.offsets[2] + sum(head.streams[2].sizes[:5]) + 7
    data[at] ^= 4
    assert record.check(data) == ["stream plane2, tile 5"]
    with pytest.raises(FormatError, match="stream plane2, tile 5 is damaged"):
        read(bytes(data))
    assert record.check(data[:-1]) == ["head"]
    assert record.check(b"") == ["head"]


def test_head_from_a_prefix() -> None:
    data = record.encode(Dense.of(np.random.default_rng(0).normal(size=10**5).astype(np.float32)), "F32")
    size = record.head_size(data[: record.PREFIX])
    assert record.parse(data[:size], len(data)) == record.parse(data)
    with pytest.raises(FormatError, match="bytes where its head says"):
        record.parse(data[:size], len(data) + 1)


def inline(symbols: bytes, coder: int = RAW, model: bytes = b"", count: int | None = None) -> Tiles:
    count = len(symbols) if count is None else count
    return Tiles(coder, count, model, count, (len(symbols),), inline=symbols)


DENSE = Node(0, (BF16,))
GRID = Node(1, (4, 2, 0, 0), (DENSE,))


@pytest.mark.parametrize(
    ("shape", "node", "streams", "why"),
    [
        ((2,), Node(99, ()), [], "kind 99"),
        ((2,), Node(0, (77,)), [], "element type"),
        ((2,), Node(0, (BF16,), (DENSE,)), [], "no other code"),
        ((2,), Node(0, ()), [], "element type"),
        ((2,), Node(2, (), ()), [], "one other code"),
        ((2,), Node(2, (1,), (DENSE,)), [], "no settings"),
        ((2,), DENSE, [inline(b"ab")], "1 streams"),
        ((2,), DENSE, [inline(b"ab")] * 3, "3 streams"),
        ((2,), DENSE, [inline(b"ab"), inline(b"abc")], "3 symbols where its code has 2"),
        ((1 << 40,), DENSE, [inline(b"ab"), inline(b"ab")], "2 symbols"),
        ((1 << 62, 0), DENSE, [inline(b"")] * 2, "too large"),
        ((1,) * 40, DENSE, [inline(b"a")] * 2, "40 dimensions"),
        ((2,), DENSE, [Tiles(7, 2, b"", 2, (2,), inline=b"ab")] * 2, "coder 7"),
        ((2,), DENSE, [inline(b"", 1, b"", 1 << 21)] * 2, "more than"),
        ((2,), DENSE, [Tiles(1, 1 << 40, b"", 1 << 20, (9, 9), (0, 0))] * 2, "do not make"),
        ((2,), DENSE, [Tiles(RAW, 4, b"", 0, (2, 2), (0, 0))] * 2, "do not make"),
        ((2,), DENSE, [inline(b"abcd", 1, b"", 2), inline(b"ab")], "table"),
        ((2,), DENSE, [inline(b"abcd", 1, b"\x00\xff", 2), inline(b"ab")], "range|add up|ends|malformed"),
        ((2, 2), Node(1, (9, 2, 0, 0), (DENSE,)), [inline(b"ab")] * 3, "settings are off"),
        ((2, 2), Node(1, (4, 0, 0, 0), (DENSE,)), [inline(b"ab")] * 3, "settings are off"),
        ((2, 2), Node(1, (4, 1, 0, 1), (DENSE,)), [inline(b"ab")] * 3, "one group"),
        ((2, 2), Node(1, (4, 2, 0, 0), (GRID,)), [inline(b"ab")] * 4, "scale is dense|symbols"),
        ((2, 2), GRID, [inline(b"ab"), inline(b"ab"), inline(b"\x01\x02\x03\x10")], "off the grid"),
    ],
)
def test_lies_are_refused(shape: tuple[int, ...], node: Node, streams: list[Tiles], why: str) -> None:
    data = write_head(shape, F32, node, streams) + b"".join(bytes(s.coded) for s in streams if s.inline is None)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=why):
            record.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_deep_and_wide_trees_are_refused() -> None:
    node = DENSE
    for _ in range(20):
        node = Node(2, (), (node,))
    with pytest.raises(FormatError, match="deeper"):
        record.decode(write_head((2,), F32, node, []))


def test_newer_versions_say_so() -> None:
    data = bytearray(record.encode(Dense.of(np.zeros(3, np.float32)), "F32"))
    for flags in (1, 3):
        data[1] = 31 + 32 * flags
        data[-2:] = checksum(bytes(data[:-2]))
        with pytest.raises(FormatError, match="newer"):
            read(bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(golden.CODES)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.integers(0, 40),
    st.booleans(),
)
def test_mutations_raise_format_errors_only(name: str, edits: list[tuple[int, int]], cut: int, mend: bool) -> None:
    """Bytes changed and cut off; with `mend`, the head's checksum is made right again, as an attacker would."""
    if name == "tiles" and mend:
        return  # three million zeros are a legal reading of 48 bytes
    data = bytearray((golden.FOLDER / f"{name}.record").read_bytes())
    size = record.head_size(bytes(data))
    for at, value in edits:
        data[at % (size if mend else len(data))] = value
    data = data[: len(data) - cut]
    if mend:
        try:
            cursor = Cursor(bytes(data), "head")
            end = cursor.varint() + cursor.at
        except FormatError:
            return
        data[end : end + len(checksum(b"0" * end))] = checksum(bytes(data[:end]))
    tracemalloc.start()
    try:
        code, _ = record.decode(bytes(data))
        code.decode()
    except FormatError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 25


@given(st.binary(max_size=60))
def test_noise_raises_format_errors_only(data: bytes) -> None:
    with pytest.raises(FormatError):
        record.decode(data)


@given(st.integers(0, 2**63 - 1))
def test_varints(value: int) -> None:
    data = varint(value)
    cursor = Cursor(data + b"x", "it")
    assert cursor.varint() == value
    assert cursor.left == 1
    for end in range(len(data)):
        with pytest.raises(FormatError, match="ends early"):
            Cursor(data[:end], "it").varint()


def test_varints_have_limits() -> None:
    for value in (-1, 2**63):
        with pytest.raises(ValueError, match="outside"):
            varint(value)
    with pytest.raises(FormatError, match="too large"):
        Cursor(b"\xff" * 12, "it").varint()


def test_sparse_values_outside_the_support_cost_nothing() -> None:
    values = Dense.of(np.random.default_rng(0).normal(size=10**5).astype(np.float32), "BF16")
    keep = np.random.default_rng(1).random(10**5) < 0.1
    sparse = record.encode(Sparse(keep, values), "F32")
    assert len(sparse) * 8 < 10**5 * (0.1 * 11 + 0.48)


class Keyed:
    """A coder that cannot read a tile without its part of the side information."""

    ID = 63

    def estimate(self, symbols: np.ndarray, given: np.ndarray) -> float:
        assert given.shape == symbols.shape
        return 4.0 * symbols.size

    def fit(self, symbols: np.ndarray, given: np.ndarray) -> bytes:
        return b"k"

    def tile_symbols(self, model: bytes, symbols: np.ndarray, given: np.ndarray) -> int:
        return 700

    def encode(self, symbols: np.ndarray, model: bytes, given: np.ndarray) -> bytes:
        return np.packbits(symbols ^ given).tobytes()

    def decode(self, data: bytes, model: bytes, out: np.ndarray, given: np.ndarray) -> None:
        out[:] = np.unpackbits(np.frombuffer(data, np.uint8), count=out.size) ^ given


class Told(Dense):
    """A code of bits whose scale indices a reader knows from elsewhere."""

    KIND = 99

    def streams(self, keep: np.ndarray | None = None) -> object:
        yield Stream("plane0", self.raw(), told(self.shape))

    @classmethod
    def read(cls, shape: tuple[int, ...], node: Node, source: object, keep: np.ndarray | None = None) -> Dense:
        raw = source.next(int(np.prod(shape)), told(shape)).reshape(shape)
        return cls(lambda: raw, shape, DTYPES["U8"])


def told(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2, shape[::-1], np.uint8).T


@pytest.mark.parametrize("shape", [(3, 5), (300, 40)])  # in the head, and in tiles
def test_side_information_reaches_its_tile(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    monkeypatch.setitem(coders(), "keyed", Keyed())
    monkeypatch.setitem(kinds(), 99, Told)
    raw = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    data = record.encode(Told(lambda: raw, shape, DTYPES["U8"]), "U8", "keyed")
    head = record.parse(data)
    assert head.coder_names() == ("keyed",)
    assert len(head.streams[0].sizes) == -(-raw.size // 700)
    for threads in (1, 2):
        np.testing.assert_array_equal(read(data, threads).raw(), raw)
