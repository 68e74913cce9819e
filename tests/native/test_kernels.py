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


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="not available"):
        _kernels.rans_encode(np.zeros(1, np.uint8), np.array([256], np.uint16), 8, 1, "mmx")
