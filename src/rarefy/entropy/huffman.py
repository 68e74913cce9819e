"""Canonical Huffman codes, as the classical pipeline stores shared weights and index gaps (D. A. Huffman, "A method for
the construction of minimum-redundancy codes", 1952; S. Han et al., "Deep Compression", 2016, arXiv:1510.00149).

Codes have at most 12 bits, so that one look-up decodes a symbol, and their lengths are optimal under that limit (L. L.
Larmore and D. S. Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990). They are canonical
(E. S. Schwartz and B. Kallick, "Generating a canonical prefix encoding", 1964): numbered by length, then by symbol, so
the lengths say all. A lone symbol has the empty code.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from rarefy.entropy.rans import histogram
from rarefy.entropy.stream import TILE_BYTES
from rarefy.entropy.table import ZEROS, Bits, gamma, number_of, step_of
from rarefy.errors import FormatError
from rarefy.native import _kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.entropy.stream import Given

MAX_LENGTH: Final = 12
NO_CODE: Final = 255
"""In the place of the length of a symbol that does not occur."""

_SYMBOLS: Final = 256
_LONGEST: Final = 1024


def code_lengths(counts: NDArray[np.int64], limit: int = MAX_LENGTH) -> NDArray[np.uint8]:
    """Lengths of the shortest code with at most `limit` bits: uint8, NO_CODE where a count is zero.

    counts: integers (a,), a <= 2^limit, one or more of them positive. By package-merge: a symbol offers a coin of its
    count in each of the denominations 2^-1 .. 2^-limit; the cheapest way to a sum of a - 1 takes as many of its coins
    as its code has bits. From the smallest denomination up, coins and pairs of what is below are sorted together;
    from the largest down, what is taken of each is a prefix.
    """
    used = np.flatnonzero(counts)
    order = used[np.argsort(counts[used], kind="stable")]
    coins = counts[order].astype(np.int64)
    pairs = coins[:0]
    is_pair = []
    for _ in range(limit):
        cost = np.concatenate([coins, pairs])
        by_cost = np.argsort(cost, kind="stable")
        is_pair.append(by_cost >= len(coins))
        cost = cost[by_cost][: len(cost) // 2 * 2]
        pairs = cost[::2] + cost[1::2]
    lengths = np.full(len(counts), NO_CODE, np.uint8)
    lengths[used] = 0
    taken = 2 * (len(coins) - 1)
    for level in reversed(is_pair):
        below = int(np.count_nonzero(level[:taken]))
        lengths[order[: taken - below]] += 1
        taken = 2 * below
    return lengths


def write_lengths(lengths: NDArray[np.uint8]) -> bytes:
    """The model as bytes: the lengths, each relative to the one before, as `entropy.table` writes those of frequencies.

    Bits, the highest of a byte first, with the lengths of symbols 0, 1, .. until their codes are complete (the sum of
    2^-length is one), then zeros to the end of the byte. gamma(1) says a length as before (at first 0), gamma(2) one
    less, gamma(3) one more, and so on; gamma(4) says that the next gamma() symbols have no code.
    """
    bits = []
    before, none = 0, 0
    for length in lengths.tolist():
        if length == NO_CODE:
            none += 1
            continue
        if none:
            bits += [gamma(ZEROS), gamma(none)]
            none = 0
        bits.append(gamma(number_of(length - before)))
        before = length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@functools.lru_cache(maxsize=256)
def read_lengths(model: bytes) -> NDArray[np.uint8]:
    """What `write_lengths` wrote, (256,); not to be written to. Raises FormatError for anything else."""
    if not 1 <= len(model) <= _LONGEST:
        raise FormatError(f"a table of code lengths has {len(model)} bytes")
    bits = Bits(model)
    lengths = np.full(_SYMBOLS, NO_CODE, np.uint8)
    symbol, total, before = 0, 0, 0
    while total < 1 << MAX_LENGTH:
        number = bits.gamma()
        if number == ZEROS:
            symbol += bits.gamma()
            continue
        before += step_of(number)
        if not 0 <= before <= MAX_LENGTH or symbol >= _SYMBOLS:
            raise FormatError("a table of code lengths leaves its range")
        lengths[symbol] = before
        total += 1 << MAX_LENGTH - before
        symbol += 1
    if total != 1 << MAX_LENGTH:
        raise FormatError("code lengths promise more codes than there are")
    bits.end()
    lengths.flags.writeable = False
    return lengths


def encode(symbols: NDArray[np.uint8], lengths: NDArray[np.uint8]) -> bytes:
    """One tile of `symbols` (uint8, any shape, row-major): their codes, the highest bit of a byte first, then zeros.

    Raises ValueError for a symbol without a code, or lengths that are no complete prefix code.
    """
    return _kernels.huffman_encode(np.ascontiguousarray(symbols).reshape(-1), lengths)


def decode(data: bytes | memoryview, lengths: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Fill `out` (uint8 (n,)) with the tile's symbols.

    Safe on hostile input: reads nothing outside `data`. Raises ValueError when data are truncated, have bytes left
    over or do not end in zeros, or when `lengths` are no complete prefix code.
    """
    _kernels.huffman_decode(np.frombuffer(data, np.uint8), lengths, out)


class Huffman:
    """The coder `huffman`: one canonical code for a stream."""

    ID: ClassVar[int] = 2

    def estimate(self, symbols: NDArray[np.uint8], given: Given = None) -> float:
        if symbols.size == 0:
            return 0.0
        counts = histogram(symbols)
        lengths = code_lengths(counts)
        return 8 * (len(write_lengths(lengths)) + _tiles(counts, lengths) / 2) + _coded_bits(counts, lengths)

    def fit(self, symbols: NDArray[np.uint8], given: Given = None) -> bytes:
        return write_lengths(code_lengths(histogram(symbols if symbols.size else np.zeros(1, np.uint8))))

    def tile_symbols(self, model: bytes, symbols: NDArray[np.uint8], given: Given = None) -> int:
        return max(1, -(-symbols.size // _tiles(histogram(symbols), read_lengths(model))))

    def encode(self, symbols: NDArray[np.uint8], model: bytes, given: Given = None) -> bytes:
        return encode(symbols, read_lengths(model))

    def decode(self, data: bytes | memoryview, model: bytes, out: NDArray[np.uint8], given: Given = None) -> None:
        lengths = read_lengths(model)
        try:
            decode(data, lengths, out)
        except ValueError as error:
            raise FormatError("a Huffman tile is malformed", str(error)) from error


def _coded_bits(counts: NDArray[np.int64], lengths: NDArray[np.uint8]) -> int:
    used = np.flatnonzero(counts)
    return int(counts[used] @ lengths[used].astype(np.int64))


def _tiles(counts: NDArray[np.int64], lengths: NDArray[np.uint8]) -> int:
    """How many tiles of about TILE_BYTES a stream makes."""
    return max(1, round(_coded_bits(counts, lengths) / 8 / TILE_BYTES))


CODER = Huffman()
