import itertools

import numpy as np
import pytest

from rarefy.entropy import rans


def entropy_bits(symbols: np.ndarray) -> float:
    counts = rans.histogram(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def table(symbols: np.ndarray, k: int = 12) -> np.ndarray:
    return rans.quantize_counts(rans.histogram(symbols), k)


def literal_decode(data: bytes, n: int, freqs: list[int], k: int, lanes: int) -> list[int]:
    """The format as the module's docstring says it, one symbol after another."""
    x = [int.from_bytes(data[4 * j : 4 * j + 4], "little") for j in range(lanes)]
    words = iter([int.from_bytes(data[i : i + 2], "little") for i in range(4 * lanes, len(data), 2)])
    starts = [0, *itertools.accumulate(freqs)]
    out = []
    for i in range(n):
        j = i % lanes
        slot = x[j] % 2**k
        s = next(s for s in range(len(freqs)) if starts[s] <= slot < starts[s + 1])
        out.append(s)
        x[j] = freqs[s] * (x[j] // 2**k) + slot - starts[s]
        if x[j] < 2**16:
            x[j] = x[j] * 2**16 + next(words)
    assert x == [2**16] * lanes
    assert next(words, None) is None
    return out


@pytest.mark.parametrize("lanes", rans.LANES)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 500])
def test_streams_follow_the_format_as_written(n, lanes):
    symbols = np.random.default_rng(n).integers(0, 7, n).astype(np.uint8) ** 2
    freqs = table(np.append(symbols, np.uint8(1)))
    data = rans.encode(symbols, freqs, 12, lanes)
    assert literal_decode(data, n, freqs.tolist(), 12, lanes) == symbols.tolist()
    assert np.array_equal(rans.decode(data, n, freqs, 12, lanes), symbols)


def test_bytes_are_pinned():
    symbols = (np.arange(40) ** 2 % 7 % 4).astype(np.uint8)
    data = rans.encode(symbols, np.array([100, 90, 60, 6]), 8, 2)
    assert data.hex() == "4c5f01008b3b0100412dd03464471482"


@pytest.mark.parametrize("k", range(8, 15))
@pytest.mark.parametrize("lanes", rans.LANES)
def test_one_symbol_costs_no_words(k, lanes):
    symbols = np.full(1000, 200, np.uint8)
    data = rans.encode(symbols, table(symbols, k), k, lanes)
    assert data == (b"\0\0\1\0" * lanes)
    assert np.array_equal(rans.decode(data, 1000, table(symbols, k), k, lanes), symbols)
    with pytest.raises(ValueError, match="left over"):
        rans.decode(data + b"\0\0", 1000, table(symbols, k), k, lanes)


@pytest.mark.parametrize("k", [8, 12, 14])
def test_256_equal_symbols_cost_a_byte_each(k):
    symbols = np.tile(np.arange(256, dtype=np.uint8), 20)
    data = rans.encode(symbols, table(symbols, k), k, 1)
    assert len(data) <= 4 + symbols.size
    assert np.array_equal(rans.decode(data, symbols.size, table(symbols, k), k, 1), symbols)


@pytest.mark.parametrize("p", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("k", [12, 14])
def test_coded_size_is_within_one_percent_of_the_entropy(p, k):
    """A million symbols in tiles of 64 KiB, with their states and a table of two bytes a symbol."""
    symbols = np.minimum(np.random.default_rng(0).geometric(p, 10**6) - 1, 255).astype(np.uint8)
    if p == 0.5:
        symbols = np.minimum(symbols, 1)  # exactly one bit
    ideal = entropy_bits(symbols) / 8
    freqs = table(symbols, k)
    tile = int(65536 * symbols.size / ideal)
    lanes = rans.lanes_for(65536)
    coded = sum(len(rans.encode(symbols[i : i + tile], freqs, k, lanes)) for i in range(0, symbols.size, tile))
    assert coded + 2 * np.count_nonzero(freqs) <= 1.01 * ideal


def test_lanes_grow_with_the_payload():
    assert [rans.lanes_for(n) for n in (0, 2666, 2667, 10**4, 42_666, 42_667, 10**9)] == [1, 1, 2, 4, 16, 32, 32]
    for n in range(0, 10**5, 17):
        lanes = rans.lanes_for(n)
        assert lanes == 1 or 4 * lanes <= 0.003 * n


def test_frequencies_are_optimal():
    """Against every way of sharing 2^8 among three symbols."""
    for counts in ([1000, 1, 1], [5, 7, 900], [333, 333, 334], [10**6, 3, 50_000]):
        freqs = rans.quantize_counts(np.array(counts), 8)
        a, b = (g.ravel() for g in np.meshgrid(np.arange(1, 255), np.arange(1, 255)))
        every = np.stack([a, b, 256 - a - b], 1)
        every = every[every[:, 2] > 0]
        best = (np.log2(256 / every) @ counts).min()
        assert np.log2(256 / freqs) @ counts <= best * (1 + 1e-7)


def test_histogram_counts_bytes_of_any_shape():
    symbols = np.random.default_rng(0).integers(0, 256, (3, 7, 11), np.uint8)
    for view in (symbols, symbols[:, ::2], symbols[:0]):
        assert np.array_equal(rans.histogram(view), np.bincount(view.ravel(), minlength=256))


def test_decodes_into_what_is_given():
    symbols = np.arange(100, dtype=np.uint8) % 5
    data = rans.encode(symbols, table(symbols), 12, 4)
    out = np.zeros(100, np.uint8)
    assert rans.decode(memoryview(data), 100, table(symbols), 12, 4, out) is out
    assert np.array_equal(out, symbols)
    with pytest.raises(ValueError, match="shape"):
        rans.decode(data, 100, table(symbols), 12, 4, np.zeros(99, np.uint8))


HALF = np.array([128, 128])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("sum to 255", lambda: rans.encode(np.zeros(1, np.uint8), HALF - [1, 0], 8, 1)),
        ("sum to 256", lambda: rans.decode(b"", 0, HALF, 9, 1)),
        ("within 8..14", lambda: rans.encode(np.zeros(1, np.uint8), HALF, 7, 1)),
        ("within 8..14", lambda: rans.quantize_counts(HALF, 15)),
        ("within 0..2", lambda: rans.decode(b"", 0, np.array([-1, 257]), 8, 1)),
        ("one row of integers", lambda: rans.decode(b"", 0, HALF / 1, 8, 1)),
        ("more than 256", lambda: rans.decode(b"", 0, np.ones(257, int), 8, 1)),
        ("3 lanes", lambda: rans.encode(np.zeros(1, np.uint8), HALF, 8, 3)),
        ("64 lanes", lambda: rans.decode(b"", 0, HALF, 8, 64)),
        ("frequency zero", lambda: rans.encode(np.full(99, 2, np.uint8), HALF, 8, 32)),
        ("frequency zero", lambda: rans.encode(np.full(3, 2, np.uint8), HALF, 8, 32)),
        ("not uint8", lambda: rans.encode(np.zeros(1, np.int64), HALF, 8, 1)),
        ("below zero", lambda: rans.decode(b"", -1, HALF, 8, 1)),
        ("shorter than its states", lambda: rans.decode(b"\0\0\1", 0, HALF, 8, 1)),
        ("odd number", lambda: rans.decode(b"\0\0\1\0\0", 0, HALF, 8, 1)),
        ("state below", lambda: rans.decode(b"\0\0\0\0", 0, HALF, 8, 1)),
        ("truncated", lambda: rans.decode(b"\0\0\1\0", 100, HALF, 8, 1)),
        ("initial state", lambda: rans.decode(b"\0\0\2\0", 0, HALF, 8, 1)),
        ("negative", lambda: rans.quantize_counts(np.array([3, -1]), 8)),
        ("every count is zero", lambda: rans.quantize_counts(np.zeros(9, int), 8)),
        ("every count is zero", lambda: rans.quantize_counts(np.zeros(0, int), 8)),
    ],
)
def test_refusals_say_why_in_one_line(message, call):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
