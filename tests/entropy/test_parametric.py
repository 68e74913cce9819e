"""Bells from integers, tiles as docs/format.md says them, and what a table-free coder costs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.entropy import bells, coder, parametric
from rarefy.entropy.parametric import CODER, Model, read_model, write_model
from rarefy.errors import FormatError


def normal(t: int, v: int) -> float:
    """The probability of v under a Gaussian of scale t, rounded to integers."""
    s = 2 ** (t / 8 - 4) * math.sqrt(2)
    return (math.erfc((abs(v) - 0.5) / s) - math.erfc((abs(v) + 0.5) / s)) / 2


def mixture(d: int, t: int, v: int) -> float:
    return sum(w * normal(t + d * j, v) for w, j in zip((1, 4, 6, 4, 1), range(-2, 3), strict=True)) / 16


AREAS = [0]


def page_area(t: int, v: int) -> int:
    """G(t, v) of docs/format.md."""
    if len(AREAS) == 1:
        a, b = 2**31, 2145387520
        for _ in range(256):
            AREAS.append(AREAS[-1] + a)
            a, b = a * b >> 31, b * 2145387520 >> 31
    e = [4194304, 3846194, 3526975, 3234251, 2965821, 2719670, 2493948, 2286960]
    x = (2 * v + 1) * e[t % 8] >> 2 + t // 8
    i, w = x >> 12, x % 2**12
    return AREAS[256] if i > 255 else AREAS[i] + ((AREAS[i + 1] - AREAS[i]) * w >> 12)


def page_frequencies(d: int, t: int) -> list[int]:
    m = [
        sum(w * page_area(t + d * j, v) for w, j in zip((1, 4, 6, 4, 1), range(-2, 3), strict=True)) for v in range(128)
    ]
    h = 16 * AREAS[256]
    f = [0] * 256
    for v in range(1, 128):
        f[v] = f[-v] = (2**12 * (m[v] - m[v - 1]) + h) // (2 * h)
    r = sum(f[v] > 0 for v in range(1, 128))
    f[128] = max(1, (2**13 * (h - m[r]) + h) // (2 * h))
    f[0] = 2**12 - sum(f)
    return f


def page_decode(data: bytes, n: int, model: bytes, g: list[int]) -> list[int]:
    d, lanes, e = model[0] % 8, 2 ** (model[0] // 8 % 8), model[0] // 64
    s = model[1] - 256 * (model[1] > 127)
    escaped: list[int] = []
    if e:
        count, at = data[0], 1
        assert count < 128
        escaped, data = list(data[at : at + count]), data[at + count :]
    x = [int.from_bytes(data[4 * j : 4 * j + 4], "little") for j in range(lanes)]
    words = iter([int.from_bytes(data[i : i + 2], "little") for i in range(4 * lanes, len(data), 2)])
    out = []
    for i in range(n):
        f = page_frequencies(d, min(max(2 * g[i] + s, 0), 87))
        starts = [0, *itertools.accumulate(f)]
        slot = x[i % lanes] % 2**12
        v = next(v for v in range(256) if starts[v] <= slot < starts[v + 1])
        x[i % lanes] = f[v] * (x[i % lanes] // 2**12) + slot - starts[v]
        if x[i % lanes] < 2**16:
            x[i % lanes] = x[i % lanes] * 2**16 + next(words)
        out.append(escaped.pop(0) if v == 128 else v)
    assert x == [2**16] * lanes
    assert next(words, None) is None
    assert not escaped
    return out


def bell(shape: object, sigma: float = 3.0, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(shape) * sigma
    return np.clip(np.rint(drawn), -128, 127).astype(np.int8).view(np.uint8)


def matrix(rows: int, columns: int, level: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and their scale indices, which differ by row and by column."""
    rng = np.random.default_rng(seed)
    index = rng.integers(-5, 6, rows)[:, None] + rng.integers(-5, 6, columns) + level
    told = np.clip(index, 0, parametric.GIVEN - 1).astype(np.uint8)
    return bell((rows, columns), 2.0 ** (told / 4 - 4), seed), told


def test_every_table_is_a_table() -> None:
    tables = bells.tables()
    assert tables.shape == (8, 88, 256)
    assert np.all(tables.sum(axis=2, dtype=np.int64) == 1 << 12)
    assert np.array_equal(tables[..., 1:128], tables[..., :128:-1])
    assert tables[..., 0].min() > 0
    assert tables[..., 128].min() > 0
    positive = tables[..., 1:128] > 0
    assert np.all(positive[..., :-1] | ~positive[..., 1:])  # without gaps, so the page's r says where they end


@pytest.mark.parametrize("d", range(8))
def test_tables_are_those_of_the_page_and_of_the_law(d: int) -> None:
    for t in range(d % 4, 88, 4):
        f = bells.tables()[d, t].tolist()
        assert f == page_frequencies(d, t)
        law = np.array([mixture(d, t, v) if v != 128 else 0.0 for v in [*range(129), *range(-127, 0)]])
        table = np.array(f)
        assert np.all(np.abs(table - 4096 * law)[1:128] < 0.7)
        law[128] = 1 - law[table > 0].sum()  # what escapes
        kept = (table > 0) & (law > 1e-12)
        assert 0 <= law[kept] @ np.log2(4096 * law[kept] / table[kept]) + 1e-9 < 0.004  # bits a symbol


@pytest.mark.parametrize(
    ("sigma", "loss"), [(0.3, 0.0005), (1, 0.0006), (4, 0.002), (16, 0.005)]
)  # of bits a symbol: twelve bits of precision, and what escapes
def test_a_gaussian_costs_its_entropy(sigma: float, loss: float) -> None:
    t = round(8 * (math.log2(sigma) + 4))
    p = np.array([normal(t, int(v)) for v in np.arange(256, dtype=np.uint8).view(np.int8)])
    used = p > 1e-300
    entropy = -p[used] @ np.log2(p[used])
    assert -1e-6 < p @ bells.code_lengths()[0, t] - entropy < loss


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("n", [0, 1, 33, 150])
def test_tiles_follow_the_page(n: int, told: bool) -> None:
    symbols, index = (a.reshape(-1)[:n] for a in matrix(10, 15, 14, n))
    index = index if told else None
    if n > 1:
        symbols[n // 2] = 128
        symbols[-1] = 127
    model = CODER.fit(symbols, index)
    data = CODER.encode(symbols, model, index)
    assert page_decode(data, n, model, index.tolist() if told else [0] * n) == symbols.tolist()


def test_bytes_are_pinned() -> None:
    symbols = np.array([0, 1, -1, 3, 0, 0, -2, 1, -128, 90], np.int8).view(np.uint8)
    index = np.array([10, 12, 14, 23, 3, 43, 20, 17, 0, 16], np.uint8)
    assert CODER.fit(symbols[:8]).hex() == "0522"
    assert CODER.encode(symbols[:8], bytes.fromhex("0522")).hex() == "15611400386a"
    model = write_model(Model(3, -2, 2, True))
    assert model.hex() == "4bfe"
    assert CODER.encode(symbols, model, index).hex() == "02805a448203004e3dc51c85db7857"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 3000),
    sigma=st.sampled_from([0.05, 0.4, 2.0, 30.0, 300.0]),
    spread=st.integers(0, 43),
    told=st.booleans(),
)
def test_round_trip(seed: int, n: int, sigma: float, spread: int, told: bool) -> None:
    """Of any bytes, whether the side information says anything about them or not."""
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.standard_t(2, n) * sigma).astype(np.int64).astype(np.uint8)
    index = rng.integers(0, spread + 1, n).astype(np.uint8) if told else None
    model = CODER.fit(symbols, index)
    assert len(model) == 2
    assert write_model(read_model(model)) == model
    data = CODER.encode(symbols, model, index)
    out = np.empty(n, np.uint8)
    CODER.decode(data, model, out, index)
    assert np.array_equal(out, symbols)
    if n:
        assert abs(CODER.estimate(symbols, index) / 8 - len(model) - len(data)) <= 8 + 0.01 * len(data)


@pytest.mark.parametrize("level", [8, 14, 20, 26])
def test_estimates_and_sizes_with_side_information(level: int) -> None:
    """Within 1 % of the estimate, and of what each scale's own histogram says: no table-free coder takes less."""
    symbols, told = matrix(600, 500, level)
    model = CODER.fit(symbols, told)
    step = CODER.tile_symbols(model, symbols, told)
    flat, index = symbols.reshape(-1), told.reshape(-1)
    parts = [slice(i, i + step) for i in range(0, flat.size, step)]
    coded = len(model) + sum(len(CODER.encode(flat[part], model, index[part])) for part in parts)
    assert abs(CODER.estimate(symbols, told) / 8 - coded) < 0.01 * coded
    counts = np.zeros((44, 256))
    np.add.at(counts, (index, flat), 1)
    total = counts.sum(axis=1, keepdims=True)
    ideal = (counts * np.log2(np.divide(total, counts, out=np.ones_like(counts), where=counts > 0))).sum() / 8
    assert coded < 1.012 * ideal  # a thousand symbols a scale fit their own histogram better than their law
    assert coded < 0.95 * coder("rans").estimate(symbols) / 8


def test_the_best_model_is_the_best() -> None:
    """Of all shapes and shifts, by coding."""
    symbols, told = matrix(30, 40, 14, 3)
    best = read_model(CODER.fit(symbols, told))
    size = len(CODER.encode(symbols, write_model(best), told))
    for shape, shift in itertools.product(range(8), range(-12, 13)):
        other = Model(shape, shift, best.lanes, True)
        assert size <= len(CODER.encode(symbols, write_model(other), told)) + 2


def test_small_streams_cost_two_bytes_besides_a_state() -> None:
    symbols = bell(300)
    assert len(CODER.fit(symbols)) + len(CODER.encode(symbols, CODER.fit(symbols))) < 8 + 300 * 3.65 / 8
    assert CODER.estimate(symbols) < coder("rans").estimate(symbols) - 8 * 8


def test_a_tile_that_is_accepted_is_the_one_encoding() -> None:
    rng = np.random.default_rng(0)
    symbols, told = (a.reshape(-1) for a in matrix(12, 20, 12))
    symbols[[7, 99]] = 128, 100
    model = CODER.fit(symbols, told)
    assert read_model(model).escapes
    good = CODER.encode(symbols, model, told)
    out = np.empty(symbols.size, np.uint8)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        data = data[: rng.integers(len(data) + 1)] if rng.random() < 0.2 else data
        index = told if rng.random() < 0.8 else rng.permutation(told)
        try:
            CODER.decode(bytes(data), model, out, index)
        except FormatError as error:
            assert "\n" not in str(error)
        else:
            assert CODER.encode(out, model, index) == data


@pytest.mark.parametrize(
    ("model", "data", "index", "why"),
    [
        (b"", b"", 0, "model"),
        (b"\0", b"", 0, "model"),
        (b"\0\0\0", b"", 0, "model"),
        (b"\x80\0", b"", 0, "model"),
        (b"\x30\0", b"", 0, "model"),
        (b"\x38\0", b"", 0, "model"),
        (b"\0\0", b"\0\0\1\0", 44, "scale index 44"),
        (b"\0\0", b"\0\0\1\0", 255, "scale index 255"),
        (b"\0\0", b"\0\0\1", 0, "shorter"),
        (b"\0\x20", b"\0\0\1\0", 30, "truncated"),
        (b"\0\0", b"\0\0\0\0", 0, "below"),
        (b"\x40\0", b"", 0, "count"),
        (b"\x40\0", b"\x80\0\0\0\1\0", 0, "count"),
        (b"\x40\0", b"\xff\xff\xff\xff", 0, "count"),
        (b"\x40\0", b"\x05\0\0\1\0", 0, "shorter"),
    ],
)
def test_lies_are_refused(model: bytes, data: bytes, index: int, why: str) -> None:
    with pytest.raises(FormatError, match=why) as refused:
        CODER.decode(data, model, np.empty(5, np.uint8), np.full(5, index, np.uint8))
    assert "\n" not in str(refused.value)


def test_an_escape_must_be_needed() -> None:
    symbols = np.array([0, 0, 100], np.uint8)
    model = write_model(Model(0, 32, 1, True))
    data = CODER.encode(symbols, model)
    assert data[:2] == b"\x01\x64"
    out = np.empty(3, np.uint8)
    with pytest.raises(FormatError, match="without need"):
        CODER.decode(b"\x01\x01" + data[2:], model, out)
    with pytest.raises(FormatError, match="left over"):
        CODER.decode(data + b"\0\0", model, out)
    with pytest.raises(FormatError, match="1 symbols escape, 2 are there"):
        CODER.decode(b"\x02\x64\x64" + data[2:], model, out)
    with pytest.raises(FormatError, match="1 symbols escape, 0 are there"):
        CODER.decode(data[2:], write_model(Model(0, 32, 1, False)), out)
    with pytest.raises(ValueError, match="none do"):
        CODER.encode(symbols, write_model(Model(0, 32, 1, False)))
    with pytest.raises(ValueError, match="scale index 44"):
        CODER.encode(symbols, model, np.full(3, 44, np.uint8))
    with pytest.raises(ValueError, match="scale index 44"):
        CODER.fit(symbols, np.full(3, 44, np.uint8))
