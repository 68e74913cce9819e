import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.entropy import coder, context
from rarefy.entropy.context import Shape
from rarefy.entropy.stream import TILE_SYMBOLS
from rarefy.errors import FormatError
from rarefy.native import _kernels, twin_context

CODER = context.CODER


def decode(data: bytes, n: int, shape: Shape) -> np.ndarray:
    out = np.empty(n, np.uint8)
    context.decode(data, shape, out)
    return out


def weights(seed: int, rows: int, columns: int, depth: int, spread: float = 0.5) -> np.ndarray:
    """Rounded normal weights whose columns differ in scale, as symbols of a grid."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=columns) * spread) * 2.0**depth / 12
    return (np.rint(rng.normal(size=(rows, columns)) * scale).astype(int) % 2**depth).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    columns=st.sampled_from([1, 2, 7, 100, 1 << 20]),
    depth=st.integers(1, 8),
)
def test_streams_are_the_twins_and_come_back(seed, n, columns, depth):
    symbols = weights(seed, n, 1, depth)[:, 0]
    shape = Shape(depth, columns)
    data = context.encode(symbols, shape)
    assert data == twin_context.encode(symbols, depth, columns)
    np.testing.assert_array_equal(decode(data, n, shape), symbols)
    np.testing.assert_array_equal(twin_context.decode(data, n, depth, columns), symbols)


def test_twin_and_kernel_agree_once_every_count_is_full():
    symbols = weights(0, 700, 2, 2)
    assert context.encode(symbols, Shape(2, 2)) == twin_context.encode(symbols.reshape(-1), 2, 2)


def test_bytes_are_pinned():
    symbols = (np.arange(60).reshape(6, 10) ** 2 % 7 % 4).astype(np.uint8)
    model = CODER.fit(symbols)
    assert model.hex() == "51"
    assert CODER.encode(symbols, model).hex() == "e0be07f56543f109d4a3d81e"


def test_constants_cost_next_to_nothing():
    for value in (0, 1, 77, 255):
        symbols = np.full((100, 1000), value, np.uint8)
        assert len(CODER.encode(symbols, CODER.fit(symbols))) < 80


def test_random_bits_cost_little_more_than_themselves():
    symbols = np.random.default_rng(0).integers(0, 16, (100, 200), np.uint8)
    assert len(CODER.encode(symbols, CODER.fit(symbols))) < 1.015 * symbols.size / 2


def test_columns_and_rows_of_their_own_scale_are_learnt():
    """Against the entropy of one table: what differs between columns, or from run to run, is found out."""
    rng = np.random.default_rng(0)
    columns = weights(1, 400, 200, 4)
    normal = rng.normal(size=(2, 400, 200))
    runs = (np.rint(normal[0] * np.repeat(rng.choice([0.5, 2], (400, 4)), 50, 1)) % 16).astype(np.uint8)
    means = (np.rint(normal[1] + rng.integers(-4, 4, 200)) % 16).astype(np.uint8)
    left = np.cumsum(rng.integers(0, 2, (400, 200)), axis=1).astype(np.uint8) % 16
    for symbols, gain in ((columns, 0.05), (runs, 0.05), (means, 0.3), (left, 0.7)):
        p = np.bincount(symbols.reshape(-1)) / symbols.size
        entropy = -symbols.size * float(np.sum(p[p > 0] * np.log2(p[p > 0]))) / 8
        assert len(CODER.encode(symbols, CODER.fit(symbols))) < (1 - gain) * entropy


@pytest.mark.parametrize("n", [30, 100, 300, 1000])
def test_few_symbols_cost_less_than_with_a_table(n):
    symbols = weights(2, n, 1, 4)[:, 0]
    assert CODER.estimate(symbols) < coder("rans").estimate(symbols)


def test_tiles_are_whole_rows_of_alike_many():
    for shape in ((1500, 1000), (3, 700_000), (5, 5), (1, TILE_SYMBOLS), (2_000_000, 1), (4, TILE_SYMBOLS + 1)):
        symbols = np.zeros(shape, np.uint8)
        model = CODER.fit(symbols)
        step = CODER.tile_symbols(model, symbols)
        columns = context.read_shape(model).columns
        assert 1 <= step <= TILE_SYMBOLS
        assert step % columns == 0
        assert columns == (shape[1] if shape[1] <= TILE_SYMBOLS else 1)
    assert CODER.tile_symbols(CODER.fit(np.zeros((1500, 1000))), np.zeros((1500, 1000), np.uint8)) == 750_000


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 60),
    cut=st.integers(0, 80),
    flips=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=3),
    more=st.binary(max_size=3),
)
def test_a_stream_that_is_accepted_is_the_one_stream_of_its_symbols(seed, n, cut, flips, more):
    shape = Shape(4, 7)
    data = bytearray(context.encode(weights(seed, 60, 1, 4), shape))
    for at, value in flips:
        data[at % len(data)] = value
    data = bytes(data[:cut]) + more
    try:
        symbols = decode(data, n, shape)
    except ValueError:
        with pytest.raises(ValueError):
            twin_context.decode(data, n, *shape)
    else:
        assert context.encode(symbols, shape) == data


def test_every_truncation_and_extension_is_refused():
    for seed in range(20):
        symbols = weights(seed, 5 + seed, 3, 4)
        shape = Shape(4, 3)
        data = context.encode(symbols, shape)
        for bad in (*(data[:size] for size in range(len(data))), data + b"\0", data + b"\x80", data + b"\xff"):
            with pytest.raises(ValueError, match="does not end where its symbols do"):
                decode(bad, symbols.size, shape)


def test_every_short_sequence_has_a_stream_of_its_own():
    """Carries through bytes of ones and ends a hair below a round number are among them."""
    shape = Shape(1, 1)
    sequences = np.unpackbits(np.arange(1 << 12, dtype=">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    streams = [context.encode(symbols, shape) for symbols in sequences]
    assert len(set(streams)) == len(sequences)
    for symbols, data in zip(sequences, streams, strict=True):
        np.testing.assert_array_equal(decode(data, 12, shape), symbols)


@pytest.mark.parametrize(
    "model", ["", "00", "07", "0800", "0a0000", "ffffffff", "0100008001", "08000000", "0100000001"]
)
def test_hostile_models_are_refused(model):
    with pytest.raises(FormatError, match="malformed"):
        CODER.decode(b"", bytes.fromhex(model), np.empty(1, np.uint8))


def test_models_come_back():
    for shape in (Shape(1, 1), Shape(8, 1), Shape(4, 31), Shape(4, 32), Shape(8, TILE_SYMBOLS)):
        assert context.read_shape(context.write_shape(shape)) == shape
    assert context.write_shape(Shape(4, 576)).hex() == "0312"


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("more bits", lambda: context.encode(np.array([4], np.uint8), Shape(2, 1))),
        ("1 to 8 bits", lambda: context.encode(np.zeros(1, np.uint8), Shape(9, 1))),
        ("1 to 8 bits", lambda: decode(b"", 1, Shape(0, 1))),
        ("columns", lambda: decode(b"", 1, Shape(1, 0))),
        ("columns", lambda: decode(b"", 1, Shape(1, TILE_SYMBOLS + 1))),
        ("more than 2\\^20", lambda: decode(b"", TILE_SYMBOLS + 1, Shape(1, 1))),
        ("no symbols has bytes", lambda: decode(b"\0", 0, Shape(1, 1))),
        ("does not end", lambda: decode(b"", 1, Shape(1, 1))),
    ],
)
def test_refusals_say_why_in_one_line(message, call):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_tables_of_the_kernel_are_the_documented_ones():
    """One look at a probability: a fresh model gives a half, to the last bit."""
    assert _kernels.context_encode(np.array([1], np.uint8), 1, 1) == b"\0"
    assert _kernels.context_encode(np.array([0], np.uint8), 1, 1) == b"\x80"
    assert twin_context.SQUASHED[2047] == 1 << 15
    assert twin_context.STRETCH[2048] == 0
