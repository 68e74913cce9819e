"""rANS tables as bytes: round trips, size, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.entropy.rans import quantize_counts
from rarefy.entropy.table import read_table, table_bits, write_table
from rarefy.errors import FormatError


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=256).filter(any), st.integers(8, 14), st.integers(0, 5))
def test_round_trip(counts: list[int], k: int, lanes: int) -> None:
    freqs = quantize_counts(np.array(counts), k)
    model = write_table(freqs, k, 1 << lanes)
    assert 8 * len(model) == table_bits(freqs, k)
    table = read_table(model)
    assert (table.k, table.lanes) == (k, 1 << lanes)
    np.testing.assert_array_equal(table.freqs[: freqs.size], freqs)
    assert not table.freqs[freqs.size :].any()


def test_exact_bytes() -> None:
    freqs = np.array([200, 0, 0, 0, 55, 1], np.uint16)
    # 200: 8 bits as k = 8, 1001000; three zeros; 55: two bits fewer, 10111; 1: five fewer (number 11).
    bits = "1" + "1001000" + "00100" + "011" + "00101" + "10111" + "0001011"
    bits += "0" * (-len(bits) % 8)
    assert write_table(freqs, 8, 4) == bytes([0 + 8 * 2]) + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("width", [2, 6, 20, 60])
def test_size(width: float) -> None:
    """About a byte for each symbol that occurs."""
    symbols = np.rint(np.random.default_rng(0).normal(size=10**5) * width).astype(np.int8).view(np.uint8)
    counts = np.bincount(symbols, minlength=256)
    freqs = quantize_counts(counts, 12)
    assert len(write_table(freqs, 12, 1)) < 1.5 * np.count_nonzero(counts)


GOOD = write_table(np.array([200, 0, 0, 0, 55, 1], np.uint16), 8, 4)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (b"", "0 bytes"),
        (b"\x00", "1 bytes"),
        (b"\x00" * 5000, "5000 bytes"),
        (b"\x07" + GOOD[1:], "k = 15"),
        (b"\x30" + GOOD[1:], "2\\^6 lanes"),
        (GOOD[:-1], "ends early|malformed"),
        (GOOD + b"\0", "left over"),
        (GOOD[:-1] + bytes([GOOD[-1] | 1]), "left over"),
        (b"\x00" + b"\xff" * 9, "add up"),
        (b"\x00" + b"\x00" * 9, "malformed"),
        (b"\x00" + b"\x20\x01\x00" * 200, "range|malformed"),
    ],
)
def test_malformed_tables_are_refused(model: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read_table(model)


@given(st.binary(min_size=2, max_size=40))
def test_noise_is_refused_or_adds_up(model: bytes) -> None:
    try:
        table = read_table(model)
    except FormatError:
        return
    assert table.freqs.sum() == 1 << table.k
    assert write_table(table.freqs, table.k, table.lanes)[0] == model[0]
