"""What every coder must do, whichever are there."""

from __future__ import annotations

import numpy as np
import pytest

from rarefy.entropy import Coder, Stream, coder, coders
from rarefy.errors import FormatError, UsageError

RNG = np.random.default_rng(0)
SYMBOLS = {
    "none": np.zeros(0, np.uint8),
    "one": np.array([7], np.uint8),
    "constant": np.full(5000, 255, np.uint8),
    "few": RNG.integers(0, 3, 40).astype(np.uint8),
    "bell": np.rint(RNG.normal(size=60_000) * 2).astype(np.int8).view(np.uint8),
    "matrix": (RNG.random((200, 300)) < 0.02).astype(np.uint8),
    "uniform": RNG.integers(0, 256, 20_000).astype(np.uint8),
    "two": np.repeat(np.array([0, 200], np.uint8), [9999, 1]),
}

every_coder = pytest.mark.parametrize("name", list(coders()))
every_stream = pytest.mark.parametrize("kind", list(SYMBOLS))


def encoded(which: Coder, symbols: np.ndarray) -> tuple[bytes, bytes]:
    model = which.fit(symbols)
    return model, which.encode(symbols, model)


@every_coder
@every_stream
def test_round_trip(name: str, kind: str) -> None:
    which, symbols = coder(name), SYMBOLS[kind]
    model, data = encoded(which, symbols)
    out = np.full(symbols.size, 99, np.uint8)
    which.decode(memoryview(data), model, out)
    np.testing.assert_array_equal(out, symbols.reshape(-1))
    assert encoded(which, symbols) == (model, data)


@every_coder
@every_stream
def test_estimate_is_close(name: str, kind: str) -> None:
    which, symbols = coder(name), SYMBOLS[kind]
    model, data = encoded(which, symbols)
    if symbols.size:
        assert abs(which.estimate(symbols) / 8 - len(model) - len(data)) <= 8 + 0.005 * len(data)
    else:
        assert which.estimate(symbols) == 0


@every_coder
@every_stream
def test_round_trip_with_side_information(name: str, kind: str) -> None:
    which, symbols = coder(name), SYMBOLS[kind]
    given = np.random.default_rng(1).integers(0, 44, symbols.shape, np.uint8)
    model = which.fit(symbols, given)
    assert which.tile_symbols(model, symbols, given) >= 1
    flat = given.reshape(-1)
    data = which.encode(symbols.reshape(-1), model, flat)
    out = np.full(symbols.size, 99, np.uint8)
    which.decode(memoryview(data), model, out, flat)
    np.testing.assert_array_equal(out, symbols.reshape(-1))
    if symbols.size:
        assert abs(which.estimate(symbols, given) / 8 - len(model) - len(data)) <= 8 + 0.005 * len(data)


@every_coder
def test_tiles_decode_alone(name: str) -> None:
    which, symbols = coder(name), SYMBOLS["bell"]
    model = which.fit(symbols)
    step = which.tile_symbols(model, symbols)
    assert step >= 1
    part = symbols[1000:3000]
    out = np.empty(part.size, np.uint8)
    which.decode(which.encode(part, model), model, out)
    np.testing.assert_array_equal(out, part)


@every_coder
def test_tiles_close_near_their_target(name: str) -> None:
    which = coder(name)
    symbols = np.tile(SYMBOLS["bell"], 8)
    model = which.fit(symbols)
    size = len(which.encode(symbols[: which.tile_symbols(model, symbols)], model))
    assert 40_000 < size < 100_000


@every_coder
@every_stream
def test_damaged_tiles_never_crash(name: str, kind: str) -> None:
    which, symbols = coder(name), SYMBOLS[kind]
    model, data = encoded(which, symbols)
    out = np.empty(symbols.size, np.uint8)
    tries = [data[:-1], data + b"\0", data + b"\0\0", b"", data[1:], bytes(len(data))]
    tries += [data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :] for at in range(0, len(data), 1 + len(data) // 20)]
    for bad in tries:
        try:
            which.decode(bad, model, out)
        except FormatError as error:
            assert "\n" not in str(error)
    if len(data) > 1:
        with pytest.raises(FormatError):
            which.decode(data[: len(data) // 2], model, out)


def test_ids_and_names() -> None:
    ids = [which.ID for which in coders().values()]
    assert len(set(ids)) == len(ids)
    assert list(coders())[:2] == ["raw", "rans"]
    assert all(isinstance(which, Coder) for which in coders().values())
    with pytest.raises(UsageError, match="no coder is called 'morse'; choose one of raw, rans"):
        coder("morse")


@every_stream
def test_streams_cost_what_the_cheapest_coder_asks(kind: str) -> None:
    symbols = SYMBOLS[kind]
    entropy = 0.0
    if symbols.size:
        p = np.bincount(symbols.reshape(-1)) / symbols.size
        entropy = -symbols.size * float(np.sum(p[p > 0] * np.log2(p[p > 0])))
    bits = Stream("values", symbols).bits()
    assert bits <= 8 * symbols.size
    # At most 1 % over the entropy at a bit a symbol and above, besides model and state.
    if symbols.size and entropy >= symbols.size:
        assert bits <= 1.01 * entropy + 8 * 300
