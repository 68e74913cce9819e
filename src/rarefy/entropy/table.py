"""The model of a rANS stream as bytes: k, lanes and the frequencies of the symbols, in about a byte each.

The first byte is k - 8 + 8 * log2(lanes). Bits follow, the highest of a byte first, that give the frequencies of the
symbols 0, 1, .. until they add up to 2^k; then zeros to the end of the byte. A frequency f > 0 of l bits is written as
its l relative to the one before it (at first k), then its lower l - 1 bits: neighbours are alike in size.

gamma(n), n >= 1, is floor(log2 n) zeros and n in binary (P. Elias, "Universal codeword sets and representations of the
integers", 1975). gamma(1) says l as before, gamma(2) one less, gamma(3) one more, gamma(5) two less, gamma(6) two
more, gamma(7) three less, and so on; gamma(4) says that the next gamma() symbols have frequency 0.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from rarefy.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_K: Final = 8
MAX_K: Final = 14
MAX_LANES_LOG2: Final = 5
_SYMBOLS: Final = 256
ZEROS: Final = 4
_LONGEST: Final = 1024


class Table(NamedTuple):
    """Frequencies (uint16 (256,), adding up to 2^k) and how many lanes a tile has."""

    freqs: NDArray[np.uint16]
    k: int
    lanes: int


def write_table(freqs: NDArray[np.uint16], k: int, lanes: int) -> bytes:
    """The bytes of a table: freqs, at most 256 that add up to 2^k; lanes, a power of two up to 32."""
    bits = []
    before, zeros = k, 0
    for f in freqs.tolist():
        if f == 0:
            zeros += 1
            continue
        if zeros:
            bits += [gamma(ZEROS), gamma(zeros)]
            zeros = 0
        length = f.bit_length()
        bits += [gamma(number_of(length - before)), f"{f:b}"[1:]]
        before = length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return bytes([k - MIN_K + 8 * (lanes.bit_length() - 1)]) + int(text, 2).to_bytes(len(text) // 8, "big")


def table_bits(freqs: NDArray[np.uint16], k: int) -> int:
    """Length of `write_table` in bits, without writing it."""
    used = np.flatnonzero(freqs)
    length = np.frexp(freqs[used].astype(np.float64))[1]
    step = np.diff(length, prepend=k)
    runs = np.diff(used, prepend=-1) - 1
    runs = runs[runs > 0]
    ahead = _GAMMA_BITS[_NUMBERS[step + MAX_K]].sum() + (length - 1).sum()
    zeros = (_GAMMA_BITS[ZEROS] + _GAMMA_BITS[runs]).sum()
    return 8 * (1 + -(-int(ahead + zeros) // 8))


@functools.lru_cache(maxsize=256)
def read_table(model: bytes) -> Table:
    """The table that `write_table` wrote; the array must not be written to. Raises FormatError for anything else."""
    if not 2 <= len(model) <= _LONGEST:
        raise FormatError(f"a table of frequencies has {len(model)} bytes")
    lanes, k = divmod(model[0], 8)
    k += MIN_K
    if k > MAX_K or lanes > MAX_LANES_LOG2:
        raise FormatError(f"a table of frequencies has k = {k} and 2^{lanes} lanes")
    bits = Bits(model[1:])
    freqs = np.zeros(_SYMBOLS, np.uint16)
    symbol, total, before = 0, 0, k
    while total < 1 << k:
        number = bits.gamma()
        if number == ZEROS:
            symbol += bits.gamma()
            continue
        before += step_of(number)
        if not 1 <= before <= k + 1 or symbol >= _SYMBOLS:
            raise FormatError("a table of frequencies leaves its range")
        freqs[symbol] = f = 1 << before - 1 | bits.take(before - 1)
        total += f
        symbol += 1
    if total != 1 << k:
        raise FormatError(f"frequencies add up to {total}, not 2^{k}")
    bits.end()
    freqs.flags.writeable = False
    return Table(freqs, k, 1 << lanes)


def number_of(step: int) -> int:
    """What stands for a change of length."""
    if abs(step) < 2:
        return (1, 3, 2)[step]
    return 2 * abs(step) + (2 if step > 0 else 1)


def step_of(number: int) -> int:
    """The change of length that `number` stands for: the inverse of `number_of`."""
    if number < ZEROS:
        return (0, -1, 1)[number - 1]
    return (number - 1) // 2 * (-1 if number % 2 else 1)


def gamma(number: int) -> str:
    """The bits of `number` >= 1."""
    return "0" * (number.bit_length() - 1) + f"{number:b}"


class Bits:
    """Reads bits, the highest of a byte first. Raises FormatError at their end."""

    def __init__(self, data: bytes) -> None:
        self.text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        self.at = 0

    def take(self, count: int) -> int:
        if self.at + count > len(self.text):
            raise FormatError("a table of frequencies ends early")
        self.at += count
        return int(self.text[self.at - count : self.at] or "0", 2)

    def gamma(self) -> int:
        one = self.text.find("1", self.at)
        if one < 0 or one - self.at > 8:
            raise FormatError("a table of frequencies is malformed")
        zeros = one - self.at
        self.at = one
        return self.take(zeros + 1)

    def end(self) -> None:
        rest = self.text[self.at :]
        if len(rest) >= 8 or "1" in rest:
            raise FormatError("a table of frequencies has bits left over")


_NUMBERS: Final = np.array([number_of(step) for step in range(-MAX_K, MAX_K + 1)])
_GAMMA_BITS: Final = np.array([0] + [2 * n.bit_length() - 1 for n in range(1, _SYMBOLS + 1)])
