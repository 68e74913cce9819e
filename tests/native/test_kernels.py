"""Every path of every kernel against its NumPy twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.entropy import rans
from rarefy.native import _kernels, dequantize_groups, twin

PATHS = _kernels.paths()


def decode(data: bytes, n: int, freqs: np.ndarray, k: int, lanes: int, path: str) -> np.ndarray:
    out = np.empty(n, np.uint8)
    _kernels.rans_decode(np.frombuffer(data, np.uint8), freqs, k, lanes, out, path)
    return out


def source(seed: int, n: int, alphabet: int, skew: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(alphabet, skew))
    return rng.choice(rng.permutation(256)[:alphabet], n, p=p).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 5000),
    alphabet=st.sampled_from([1, 2, 3, 16, 100, 256]),
    skew=st.sampled_from([0.02, 0.3, 5.0]),
    k=st.integers(8, 14),
    lanes=st.sampled_from(rans.LANES),
)
def test_every_path_writes_and_reads_the_bytes_of_the_twin(seed, n, alphabet, skew, k, lanes):
    symbols = source(seed, n, alphabet, skew)
    counts = rans.histogram(symbols)
    counts[seed % 256] += 1  # a table must exist for n = 0, and may hold symbols that do not occur
    freqs = rans.quantize_counts(counts, k)
    data = twin.rans_encode(symbols, freqs, k, lanes)
    assert np.array_equal(twin.rans_decode(data, n, freqs, k, lanes), symbols)
    for path in PATHS:
        assert _kernels.rans_encode(symbols, freqs, k, lanes, path) == data
        assert np.array_equal(decode(data, n, freqs, k, lanes, path), symbols)


def decode_given(data: bytes, index: np.ndarray, freqs: np.ndarray, k: int, lanes: int, path: str) -> np.ndarray:
    out = np.empty(index.size, np.uint8)
    _kernels.rans_decode_given(np.frombuffer(data, np.uint8), index, freqs, k, lanes, out, path)
    return out


def told(seed: int, n: int, tables: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols, the table of each, and the tables, of which some are malformed where no symbol uses them."""
    rng = np.random.default_rng(seed)
    index = rng.choice(tables, n, p=rng.dirichlet(np.full(tables, 0.3))).astype(np.uint8)
    symbols = np.empty(n, np.uint8)
    freqs = np.full((tables, 256), 7, np.uint16)
    for table in np.unique(index):
        symbols[index == table] = source(seed + int(table), int((index == table).sum()), 40, 0.3)
        freqs[table] = rans.quantize_counts(rans.histogram(symbols[index == table]), k)
    return symbols, index, freqs


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 5000),
    tables=st.sampled_from([1, 2, 44, 256]),
    k=st.integers(8, 12),
    lanes=st.sampled_from(rans.LANES),
)
def test_every_path_takes_the_table_that_is_given(seed, n, tables, k, lanes):
    symbols, index, freqs = told(seed, n, tables, k)
    data = twin.rans_encode(symbols, freqs, k, lanes, index)
    assert np.array_equal(twin.rans_decode(data, n, freqs, k, lanes, index), symbols)
    for path in PATHS:
        assert _kernels.rans_encode_given(symbols, index, freqs, k, lanes, path) == data
        assert np.array_equal(decode_given(data, index, freqs, k, lanes, path), symbols)


@pytest.mark.parametrize("lanes", [1, 8, 16, 32])
def test_hostile_streams_under_given_tables_are_refused_alike(lanes):
    rng = np.random.default_rng(lanes)
    symbols, index, freqs = told(lanes, 333, 5, 10)
    good = _kernels.rans_encode_given(symbols, index, freqs, 10, lanes)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = data[: rng.integers(len(data) + 1)] if rng.random() < 0.3 else data
        accepted = []
        for path in PATHS:
            try:
                accepted.append(decode_given(bytes(data), index, freqs, 10, lanes, path).tobytes())
            except ValueError:
                accepted.append(None)
        assert len(set(accepted)) == 1
        if accepted[0] is not None:
            again = np.frombuffer(accepted[0], np.uint8)
            assert _kernels.rans_encode_given(again, index, freqs, 10, lanes) == data


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("lanes", rans.LANES)
def test_any_words_decode_within_bounds_under_given_tables(lanes, path):
    rng = np.random.default_rng(1)
    index = rng.integers(0, 9, 4096).astype(np.uint8)
    freqs = np.stack([rans.quantize_counts(rng.integers(1, 100, 256), 12) for _ in range(9)])
    for size in [*range(0, 300, 7), 2000]:
        data = rng.integers(0, 256, 4 * lanes + size, np.uint8)
        data[2 : 4 * lanes : 4] |= 1
        with pytest.raises(ValueError, match="rANS stream"):
            decode_given(data.tobytes(), index, freqs, 12, lanes, path)


def test_tables_that_are_not_there_are_refused():
    good = np.tile(rans.quantize_counts(np.array([3, 5]), 8), (2, 1))
    freqs = np.zeros((3, 256), np.uint16)
    freqs[:2, :2] = good
    symbols, zeros, out = np.zeros(40, np.uint8), np.zeros(40, np.uint8), np.empty(40, np.uint8)
    data = _kernels.rans_encode_given(symbols, zeros, freqs, 8, 1)
    for index, why in ((2, "sum to 0"), (3, "scale index 3 of 3"), (255, "scale index 255 of 3")):
        lie = zeros.copy()
        lie[17] = index
        with pytest.raises(ValueError, match=why):
            _kernels.rans_encode_given(symbols, lie, freqs, 8, 1)
        with pytest.raises(ValueError, match=why):
            decode_given(data, lie, freqs, 8, 1, "")
    with pytest.raises(ValueError, match="frequency zero"):
        _kernels.rans_encode_given(symbols + np.uint8(2), zeros, freqs, 8, 1)
    with pytest.raises(ValueError, match="differ in length"):
        _kernels.rans_encode_given(symbols, zeros[1:], freqs, 8, 1)
    with pytest.raises(ValueError, match="differ in length"):
        _kernels.rans_decode_given(np.frombuffer(data, np.uint8), zeros[1:], freqs, 8, 1, out)
    with pytest.raises(ValueError, match="above 12"):
        decode_given(data, zeros, freqs, 13, 1, "")
    with pytest.raises(ValueError, match="256 entries"):
        _kernels.rans_encode_given(symbols, zeros, np.ascontiguousarray(freqs[:, :255]), 8, 1)


def test_counts_and_escapes_by_table():
    rng = np.random.default_rng(0)
    symbols, index = rng.integers(0, 256, 5000, np.uint8), rng.integers(0, 6, 5000, np.uint8)
    counts = np.empty((6, 256), np.int64)
    _kernels.histogram_given(symbols, index, counts)
    expected = np.zeros((6, 256), np.int64)
    np.add.at(expected, (index, symbols), 1)
    assert np.array_equal(counts, expected)
    lost = (rng.random((6, 256)) < 0.1).astype(np.uint8)
    kept = np.empty_like(symbols)
    escaped = _kernels.escape(symbols, index, lost, 128, kept)
    gone = lost[index, symbols] == 1
    assert escaped == symbols[gone].tobytes()
    assert np.array_equal(kept, np.where(gone, 128, symbols))
    with pytest.raises(ValueError, match="scale index 5 of 5"):
        _kernels.histogram_given(symbols, index, counts[:5])
    with pytest.raises(ValueError, match="scale index 5 of 5"):
        _kernels.escape(symbols, index, lost[:5], 128, kept)


@pytest.mark.parametrize("k", [8, 12, 13, 14])
@pytest.mark.parametrize("path", PATHS)
def test_division_is_exact_for_every_frequency(k, path):
    """A rare and a common symbol at each frequency pair; a wrong quotient would not decode."""
    rng = np.random.default_rng(k)
    whole = 1 << k
    for f in {*range(1, 40), *rng.integers(1, whole, 60).tolist(), whole // 2, whole - 2, whole - 1}:
        freqs = np.array([f, whole - f], np.uint16)
        symbols = (rng.random(700) < 0.5).astype(np.uint8)
        data = _kernels.rans_encode(symbols, freqs, k, 32, path)
        assert data == twin.rans_encode(symbols, freqs, k, 32)
        assert np.array_equal(decode(data, 700, freqs, k, 32, path), symbols)


@pytest.mark.parametrize("lanes", rans.LANES)
@pytest.mark.parametrize("k", [12, 13])
def test_hostile_streams_are_refused_alike_on_every_path(lanes, k):
    """A stream that is accepted is the one stream of what it decodes to: nothing damaged passes for the original."""
    rng = np.random.default_rng(lanes)
    symbols = source(lanes, 333, 8, 0.5)
    freqs = rans.quantize_counts(rans.histogram(symbols), k)
    good = _kernels.rans_encode(symbols, freqs, k, lanes)
    for trial in range(400):
        data = bytearray(good)
        for _ in range(rng.integers(0, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = data[: rng.integers(len(data) + 1)] if rng.random() < 0.3 else data
        data += rng.bytes(rng.integers(4)) if rng.random() < 0.3 else b""
        n = 333 if rng.random() < 0.7 else int(rng.integers(0, 700))
        accepted = []
        for path in PATHS:
            try:
                accepted.append(decode(bytes(data), n, freqs, k, lanes, path).tobytes())
            except ValueError:
                accepted.append(None)
        assert len(set(accepted)) == 1
        if accepted[0] is None:
            if trial % 10 == 0:  # the twin is slow
                with pytest.raises(ValueError):
                    twin.rans_decode(bytes(data), n, freqs, k, lanes)
        else:
            again = np.frombuffer(accepted[0], np.uint8)
            assert _kernels.rans_encode(again, freqs, k, lanes) == data


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("lanes", rans.LANES)
def test_any_words_decode_within_bounds(lanes, path):
    rng = np.random.default_rng(1)
    freqs = rans.quantize_counts(rng.integers(1, 100, 256), 12)
    for size in [*range(0, 300, 7), 2000]:
        data = rng.integers(0, 256, 4 * lanes + size, np.uint8)
        data[2 : 4 * lanes : 4] |= 1  # states that get past the first check
        with pytest.raises(ValueError, match="rANS stream"):
            decode(data.tobytes(), 4096, freqs, 12, lanes, path)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 2**55)), min_size=1, max_size=256),
    k=st.integers(8, 10),
)
def test_quantized_counts_are_those_of_the_twin(counts, k):
    counts = np.array(counts, np.int64)
    if not counts.any():
        counts[0] = 1
    freqs = rans.quantize_counts(counts, k)
    assert freqs.sum() == 1 << k
    assert np.array_equal(freqs > 0, counts > 0)
    assert np.array_equal(freqs, twin.quantize_counts(counts, k))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("columns", "group"), [(1, 1), (64, 16), (128, 128), (130, 64), (33, 100), (0, 8)])
def test_dequantized_groups_are_exactly_numpys(columns, group, path):
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (5, columns), np.uint8)
    shape = 5, -(-columns // group)
    scale = (rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, shape)).astype(np.float32)
    zero = rng.integers(0, 256, shape, np.uint8)
    expected = twin.dequantize_groups(q, scale, zero, group)
    assert np.array_equal(dequantize_groups(q, scale, zero, group), expected)
    assert np.array_equal(dequantize_groups(q, scale, zero.astype(np.int32), group), expected)
    out = np.empty(q.shape, np.float32)
    _kernels.dequantize_groups(q, scale, zero.astype(np.float32), group, out, path)
    assert np.array_equal(out, expected)


def test_dequantize_groups_refuses_shapes_that_disagree():
    q, one = np.zeros((2, 8), np.uint8), np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="group is zero"):
        dequantize_groups(q, one, one, 0)
    with pytest.raises(ValueError, match="scale"):
        dequantize_groups(q, one[:, :1], one, 4)
    with pytest.raises(ValueError, match="zero"):
        dequantize_groups(q, one, one[:1], 4)
    with pytest.raises(ValueError, match="out and q"):
        dequantize_groups(q, one, one, 4, np.empty((2, 7), np.float32))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 64), (17, 63), (40, 200)])
@pytest.mark.parametrize("own", [False, True])
def test_a_block_rounds_exactly_as_in_numpy(columns, rows, own, path):
    rng = np.random.default_rng(columns)
    floats = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    weights, within, reciprocal = 3 * floats(columns, rows), np.tril(floats(columns, columns) / 8, -1), floats(columns)
    scales, steps = np.exp(floats(rows)), np.exp(floats(columns) / 4)
    points = (np.array([[0.9], [1.95], [3]]) + 0.02 * floats(3, rows if own else 1)).astype(np.float32)
    keep = rng.random((columns, rows)) < 0.7 if own else None
    made = []
    for round_block, words in ((_kernels.round_block, (path,)), (twin.round_block, ())):
        w, q, left = weights.copy(), np.empty((columns, rows), np.int32), np.empty((columns, rows), np.float32)
        errors = np.empty_like(left)
        round_block(w, within, reciprocal, scales, steps, points, keep, q, errors, left, *words)
        made.append((w, q, left, errors))
    for ours, expected in zip(*made, strict=True):
        assert np.array_equal(ours, expected)
    assert keep is None or not made[0][1][~keep].any()


def test_a_block_of_other_shapes_is_refused():
    one, two, q = np.ones((2, 2), np.float32), np.ones(2, np.float32), np.ones((2, 2), np.int32)
    points = np.ones((3, 1), np.float32)
    good = [one, one, two, two, two, points, None, q, one, None]
    short = {1: one[:1], 2: two[:1], 3: two[:1], 4: two[:1], 5: points[:2], 7: q[:1], 9: one[:1]}
    for at, value in (short | {6: np.ones((1, 2), bool)}).items():
        with pytest.raises(ValueError, match="differ|not|no step|no scale"):
            _kernels.round_block(*good[:at], value, *good[at + 1 :])


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="not available"):
        _kernels.rans_encode(np.zeros(1, np.uint8), np.array([256], np.uint16), 8, 1, "mmx")


@pytest.mark.parametrize("path", _kernels.paths())
def test_separable_grids(path: str) -> None:
    rng = np.random.default_rng(0)
    q = rng.integers(-6, 7, (37, 75)).astype(np.int32)
    q[3, :5] = [2**31 - 1, -(2**31), 300, -300, 0]
    rows, columns = (rng.uniform(0.5, 2, n).astype(np.float32) for n in q.shape)
    points = np.array([0.875, 1.9, -2.8], np.float32)  # a file may say what it likes
    out = np.empty(q.shape, np.float32)
    _kernels.dequantize_separable(q, rows, columns, points, out, path)
    size = np.abs(q.astype(np.int64))
    values = np.where(size == 0, 0, np.where(size <= 3, points[np.clip(size, 1, 3) - 1], size.astype(np.float32)))
    expected = np.sign(q).astype(np.float32) * values.astype(np.float32) * (rows[:, None] * columns[None, :])
    assert np.array_equal(out, expected)
    q[3, :5], near = 0, np.empty(q.shape, np.float32)
    _kernels.dequantize_separable(q, rows, columns, points, out, path)
    _kernels.dequantize_separable(q.astype(np.int8), rows, columns, points, near, path)
    assert np.array_equal(near, out)
    with pytest.raises(ValueError, match="a row or a column has no scale"):
        _kernels.dequantize_separable(q, rows[1:], columns, points, out)
    with pytest.raises(ValueError, match="three points"):
        _kernels.dequantize_separable(q, rows, columns, points[1:], out)
    with pytest.raises(ValueError, match="differ in shape"):
        _kernels.dequantize_separable(q, rows, columns, points, out[1:])
