import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.entropy import huffman
from rarefy.errors import FormatError
from rarefy.native import twin_huffman

CODER = huffman.CODER


def decode(data: bytes, n: int, lengths: np.ndarray) -> np.ndarray:
    out = np.empty(n, np.uint8)
    huffman.decode(data, lengths, out)
    return out


def table(*lengths: int) -> np.ndarray:
    """Lengths of the first symbols; -1: no code."""
    out = np.full(256, huffman.NO_CODE, np.uint8)
    out[: len(lengths)] = [huffman.NO_CODE if n < 0 else n for n in lengths]
    return out


def unlimited(counts: list[int]) -> int:
    """Coded bits of Huffman's own construction, 1952: join the two rarest until one is left."""
    heap = [c for c in counts if c]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


def coded(counts: np.ndarray, lengths: np.ndarray) -> int:
    return int(counts @ np.where(lengths == huffman.NO_CODE, 0, lengths).astype(int))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60).filter(any))
def test_lengths_are_as_good_as_huffmans_where_the_limit_allows(counts):
    lengths = huffman.code_lengths(np.array(counts), limit=64)
    assert coded(np.array(counts), lengths) == unlimited(counts)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=6))
def test_limited_lengths_are_optimal(counts):
    """Against every complete set of lengths."""
    limit = 3
    best = min(
        sum(c * n for c, n in zip(counts, lengths, strict=True))
        for lengths in itertools.product(range(1, limit + 1), repeat=len(counts))
        if sum(2.0**-n for n in lengths) == 1
    )
    assert coded(np.array(counts), huffman.code_lengths(np.array(counts), limit)) == best


def test_fibonacci_counts_meet_the_limit():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman.code_lengths(np.array(counts))
    assert lengths.max() == huffman.MAX_LENGTH
    assert (2.0 ** -lengths.astype(float)).sum() == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 3000),
    alphabet=st.sampled_from([1, 2, 3, 16, 256]),
    skew=st.sampled_from([0.02, 0.3, 5.0]),
)
def test_streams_are_the_twins_and_come_back(seed, n, alphabet, skew):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(alphabet, skew))
    symbols = rng.choice(rng.permutation(256)[:alphabet], n, p=p).astype(np.uint8)
    model = CODER.fit(symbols)
    lengths = huffman.read_lengths(model)
    assert huffman.write_lengths(lengths) == model
    data = CODER.encode(symbols, model)
    assert data == twin_huffman.encode(symbols, lengths)
    np.testing.assert_array_equal(decode(data, n, lengths), symbols)
    np.testing.assert_array_equal(twin_huffman.decode(data, n, lengths), symbols)


def test_bytes_are_pinned():
    symbols = np.array([3, 0, 0, 1, 0, 2, 0, 1, 4, 0, 1, 0, 0, 3, 0, 0], np.uint8)
    model = CODER.fit(symbols)
    assert huffman.read_lengths(model)[:6].tolist() == [1, 2, 4, 3, 4, huffman.NO_CODE]
    assert model.hex() == "6cc980"
    assert CODER.encode(symbols, model).hex() == "c4e5e8c0"


def test_a_lone_symbol_costs_nothing():
    symbols = np.full(1000, 200, np.uint8)
    model = CODER.fit(symbols)
    assert CODER.encode(symbols, model) == b""
    out = np.empty(1000, np.uint8)
    CODER.decode(b"", model, out)
    assert (out == 200).all()
    with pytest.raises(FormatError, match="left over"):
        CODER.decode(b"\0", model, out)


def test_codes_of_every_length_come_back():
    lengths = table(*range(1, 12), 12, 12)
    symbols = np.random.default_rng(0).permutation(np.arange(1300) % 13).astype(np.uint8)
    for n in (*range(20), 1300):
        data = huffman.encode(symbols[:n], lengths)
        assert np.array_equal(decode(data, n, lengths), symbols[:n])


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40), n=st.integers(0, 80), seed=st.integers(0, 20))
def test_hostile_streams_are_refused_or_are_what_an_encoder_writes(data, n, seed):
    counts = np.random.default_rng(seed).geometric(0.05, 12) * (np.arange(12) <= seed)
    lengths = huffman.code_lengths(np.append(counts, np.zeros(244, int)))
    try:
        symbols = decode(data, n, lengths)
    except ValueError:
        with pytest.raises(ValueError):
            twin_huffman.decode(data, n, lengths)
    else:
        assert huffman.encode(symbols, lengths) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_hostile_models_are_refused_or_complete(model):
    try:
        lengths = huffman.read_lengths(model)
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        used = lengths[lengths != huffman.NO_CODE]
        assert (2.0 ** -used.astype(float)).sum() == 1


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("complete prefix code", lambda: decode(b"", 0, table(1, 2))),
        ("complete prefix code", lambda: decode(b"", 0, table(1, 1, 1))),
        ("complete prefix code", lambda: decode(b"", 0, table())),
        ("longer than 12", lambda: decode(b"", 0, table(13))),
        ("more than 256", lambda: decode(b"", 0, np.ones(257, np.uint8))),
        ("no code", lambda: huffman.encode(np.full(3, 2, np.uint8), table(1, 1))),
        ("truncated", lambda: decode(b"\0", 9, table(1, 1))),
        ("left over", lambda: decode(b"\0\0", 8, table(1, 1))),
        ("left over", lambda: decode(b"\0", 0, table(1, 1))),
        ("end in zeros", lambda: decode(b"\1", 7, table(1, 1))),
    ],
)
def test_refusals_say_why_in_one_line(message, call):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
