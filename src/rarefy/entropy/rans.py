"""Interleaved rANS: byte symbols under one static table of frequencies (J. Duda, "Asymmetric numeral systems:
entropy coding combining speed of Huffman coding with compression rate of arithmetic coding", 2013, arXiv:1311.2540;
F. Giesen, "Interleaved entropy coders", 2014, arXiv:1402.3392).

Symbols s_0 .. s_{n-1}, frequencies f_s that sum to 2^k (8 <= k <= 14), starts c_s = f_0 + .. + f_{s-1}, N lanes
(1, 2, 4, 8, 16 or 32); n, f, k and N are known from elsewhere. A stream is N states, each a uint32, then words, each
a uint16, all little endian. To decode, for i = 0 .. n-1 with x the state of lane i mod N:

    slot = x mod 2^k;  s_i = the symbol with c_s <= slot < c_s + f_s
    x = f_s * (x div 2^k) + slot - c_s
    if x < 2^16: x = x * 2^16 + the next word

States lie in [2^16, 2^32). A reader MUST refuse a stream with a state below 2^16 at its start, too few words, words
left over, or a lane that does not end at exactly 2^16, where every encoder begins. An encoder walks i from n-1 down
to 0 from states of 2^16: if x >= f_s * 2^(32-k), it emits x mod 2^16 and divides x by 2^16; then
x = (x div f_s) * 2^k + c_s + x mod f_s; the words are written in the reverse of the order in which they were emitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.entropy.stream import TILE_BYTES
from rarefy.entropy.table import MAX_K, MIN_K, Table, read_table, table_bits, write_table
from rarefy.errors import FormatError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given

LANES = (1, 2, 4, 8, 16, 32)


def lanes_for(n: int) -> int:
    """Lanes for a payload of n coded bytes: the most whose states (4 bytes each) are at most 0.3 % of it, or one."""
    return max((lanes for lanes in LANES if 4 * lanes * 1000 <= 3 * n), default=1)


def histogram(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts of the 256 byte values in `symbols` (uint8, any shape): int64 (256,)."""
    counts = np.empty(256, np.int64)
    _kernels.histogram(_flat(symbols), counts)
    return counts


def quantize_counts(counts: NDArray[np.int64], k: int) -> NDArray[np.uint16]:
    """Frequencies that sum to 2^k, at least 1 where a count is not zero, with the shortest coded length.

    counts: int64 (a,), a <= 256. Returns uint16 (a,). Integer arithmetic only, so every machine gives the same table;
    coded length is minimal up to the 32 fractional bits of its logarithms (B. Fox, "Discrete optimization via
    marginal analysis", 1966: no single exchange improves it).

    Raises ValueError for negative counts, counts all zero, a > 256 or k outside 8..14.
    """
    counts = np.ascontiguousarray(counts, np.int64)
    freqs = np.empty(counts.shape, np.uint16)
    _kernels.quantize_counts(counts, k, freqs)
    return freqs


def encode(symbols: NDArray[np.uint8], freqs: NDArray[Any], k: int, lanes: int) -> bytes:
    """The stream of `symbols` (uint8, any shape, row-major): 4 * lanes bytes of states, then 16-bit words.

    freqs: integers (a,), a <= 256, that sum to 2^k, 8 <= k <= 14. lanes: 1, 2, 4, 8, 16 or 32.

    Raises ValueError for a symbol of frequency zero, freqs that do not sum to 2^k, or k or lanes out of range.
    """
    return _kernels.rans_encode(_flat(symbols), _table(freqs), k, lanes)


def decode(
    data: bytes | bytearray | memoryview,
    n: int,
    freqs: NDArray[Any],
    k: int,
    lanes: int,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The n symbols of a stream: uint8 (n,).

    data: bytes-like, exactly one stream. freqs, k, lanes: as for `encode`. out: a contiguous uint8 array (n,) to
    decode into; its contents are undefined after an error.

    Safe on hostile input: reads nothing outside `data`, uses n bytes and a table. Raises ValueError when data is
    truncated, has bytes left over, does not bring every lane back to 2^16, or when freqs, k, lanes or n are out of
    range.
    """
    if n < 0:
        raise ValueError(f"n is {n}, below zero")
    table = _table(freqs)
    if out is None:
        out = np.empty(n, np.uint8)
    elif out.shape != (n,):
        raise ValueError(f"out has shape {out.shape}, not ({n},)")
    _kernels.rans_decode(np.frombuffer(data, np.uint8), table, k, lanes, out)
    return out


def _flat(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if symbols.dtype != np.uint8:
        raise ValueError(f"symbols are {symbols.dtype}, not uint8")
    return np.ascontiguousarray(symbols).reshape(-1)


def _table(freqs: NDArray[Any]) -> NDArray[np.uint16]:
    freqs = np.asarray(freqs)
    if freqs.dtype == np.uint16 and freqs.flags.c_contiguous and freqs.ndim == 1:
        return freqs
    if freqs.ndim != 1 or freqs.dtype.kind not in "iu":
        raise ValueError("freqs are not one row of integers")
    if freqs.size and (freqs.min() < 0 or freqs.max() > 1 << MAX_K):
        raise ValueError(f"freqs are not within 0..2^{MAX_K}")
    return np.ascontiguousarray(freqs, np.uint16)


class Rans:
    """The coder `rans`: one static table for a stream."""

    ID: ClassVar[int] = 1

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        if symbols.size == 0:
            return 0.0
        counts = histogram(symbols)
        table = _best_table(counts)
        lanes = 32 * table.lanes * _tiles(counts, table)
        return table_bits(table.freqs, table.k) + _coded_bits(counts, table.freqs, table.k) + lanes

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        return write_table(*_best_table(histogram(symbols if symbols.size else np.zeros(1, np.uint8))))

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        tiles = _tiles(histogram(symbols), read_table(model))
        return max(1, -(-symbols.size // tiles))

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        table = read_table(model)
        return encode(symbols, table.freqs, table.k, table.lanes)

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        table = read_table(model)
        try:
            decode(data, out.size, table.freqs, table.k, table.lanes, out)
        except ValueError as error:
            raise FormatError("a rANS tile is malformed", str(error)) from error


def _best_table(counts: NDArray[np.int64]) -> Table:
    """The table with which the stream is shortest, its own bytes included."""
    few = int(counts.sum()) <= 1 << 15
    best, least = None, 0.0
    for k in range(MIN_K, 13) if few else (12, MAX_K):
        freqs = quantize_counts(counts, k)
        bits = table_bits(freqs, k) + _coded_bits(counts, freqs, k)
        # Tables beyond k = 12 fall out of the first-level cache: a third of the speed must buy 0.5 %.
        weighed = bits * (1.005 if k > 12 else 1.0)
        if best is None or weighed < least:
            best, least = Table(freqs, k, 1), weighed
    assert best is not None
    tile = _coded_bits(counts, best.freqs, best.k) / 8 / _tiles(counts, best)
    return best._replace(lanes=lanes_for(int(tile)))


def _coded_bits(counts: NDArray[np.int64], freqs: NDArray[np.uint16], k: int) -> float:
    """Expected size of symbols with these counts, without states."""
    used = np.flatnonzero(counts)
    return float(counts[used] @ (k - np.log2(freqs[used])))


def _tiles(counts: NDArray[np.int64], table: Table) -> int:
    """How many tiles of about TILE_BYTES a stream makes."""
    return max(1, round(_coded_bits(counts, table.freqs, table.k) / 8 / TILE_BYTES))


CODER = Rans()
