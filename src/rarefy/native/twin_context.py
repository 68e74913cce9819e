"""The context coder's kernels in plain Python integers: slow, and equal to them byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIGMOID = (
    *(22, 36, 60, 99, 162, 267, 439, 720, 1179, 1921, 3108),
    *(4971, 7812, 11954, 17625, 24743, 32768, 40793, 47911, 53582, 57724, 60565),
    *(62428, 63615, 64357, 64816, 65097, 65269, 65374, 65437, 65476, 65500, 65514),
)
"""2^16 / (1 + e^(-i / 2)), i = -16 .. 16."""

WHOLE = 1 << 32
LIMIT = 1023


def squash(d: int) -> int:
    """2^16 / (1 + e^(-d / 256)), |d| < 2048, between the entries of SIGMOID on straight lines."""
    i, w = d // 128 + 16, d % 128
    return (SIGMOID[i] * (128 - w) + SIGMOID[i + 1] * w + 64) // 128


SQUASHED = [squash(d) for d in range(-2047, 2048)]
STRETCH = (np.searchsorted(np.array(SQUASHED) // 16, np.arange(4096)) - 2047).clip(max=2047).tolist()
"""For each p in 1/2^12 the least d with squash(d) / 16 >= p, or 2047."""


def approached(x: int, target: int, count: int) -> int:
    """x nearer to `target` by 1 / (count + 1.5)."""
    return x + ((target - x) * ((1 << 17) // (2 * count + 3)) >> 16)


def level(magnitude: int) -> int:
    """Its logarithm, in eighths of an octave."""
    x = magnitude // 256 + 16
    octave = x.bit_length() - 1
    return min(8 * (octave - 4) + (x >> octave - 3) % 8, 95)


class Model:
    """Probabilities, their contexts and weights; docs/format.md has the same in words."""

    def __init__(self, depth: int, columns: int) -> None:
        self.depth, self.at = depth, 0
        self.columns: list[list[int]] = []  # magnitude, mean, count
        self.width = columns
        self.overall = self.here = self.expected = 1 << 16
        self.total = self.left = 0
        self.slots: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.weights: dict[int, list[int]] = {}

    def contexts(self) -> tuple[int, ...]:
        """Of the next symbol, a number for each of the five models."""
        if self.at == 0:
            self.here = self.expected = self.overall
        if len(self.columns) <= self.at:
            self.columns.append([self.overall, 0, 8])
        magnitude, mean, _ = self.columns[self.at]
        near = level(min(magnitude * (self.here + 1) // (self.expected + 1), 1 << 24))
        scale = magnitude + (1 << 14)
        return 0, level(magnitude), near, (mean + scale) * 16 // scale * 24 + near // 4, self.left

    def step(self, symbol: int, code: Callable[[int, int], int]) -> int:
        """Code one symbol, its highest bit first: code(bit, p) returns the bit, 1 with probability p / 2^16."""
        contexts, node = self.contexts(), 1
        for b in reversed(range(self.depth)):
            node = 2 * node + self._bit(contexts, node, symbol >> b & 1, code)
        symbol = node - (1 << self.depth)
        self._close(symbol)
        return symbol

    def _bit(self, contexts: tuple[int, ...], node: int, bit: int, code: Callable[[int, int], int]) -> int:
        keys = [(m, context, node) for m, context in enumerate(contexts)]
        slots = [self.slots.get(key, (1 << 21, 0)) for key in keys]
        weights = self.weights.setdefault(node, [(1 << 16) // 5] * 5)
        inputs = [STRETCH[p >> 10] for p, _ in slots]
        mixed = sum(w * x for w, x in zip(weights, inputs, strict=True)) >> 16
        p = squash(min(max(mixed, -2047), 2047))
        bit = code(bit, p)
        error = (bit << 16) - p
        rate = 15 if slots[0][1] < LIMIT else 17
        for m in range(5):
            weights[m] += inputs[m] * error + (1 << rate - 1) >> rate
            q, count = slots[m]
            self.slots[keys[m]] = approached(q, bit * ((1 << 22) - 1), count), min(count + 1, LIMIT)
        return bit

    def _close(self, symbol: int) -> None:
        value = symbol - (1 << self.depth if symbol >> self.depth - 1 else 0)
        column = self.columns[self.at]
        self.here += (abs(value) * (1 << 16) - self.here) >> 5
        self.expected += (column[0] - self.expected) >> 5
        column[0] = approached(column[0], abs(value) << 16, column[2])
        column[1] = approached(column[1], value * (1 << 16), column[2])
        column[2] = min(column[2] + 1, LIMIT)
        self.overall = approached(self.overall, abs(value) << 16, self.total)
        self.total = min(self.total + 1, LIMIT)
        self.left = symbol
        self.at = (self.at + 1) % self.width


def encode(symbols: NDArray[np.uint8], depth: int, columns: int) -> bytes:
    """The shortest string of bytes that stays in the interval of `symbols` whatever follows it, with exact integers."""
    model = Model(depth, columns)
    low, width, shifts = 0, WHOLE, 0

    def code(bit: int, p: int) -> int:
        nonlocal low, width, shifts
        bound = (width >> 16) * p
        low, width = (low, bound) if bit else (low + bound, width - bound)
        while width < 1 << 24:
            low, width, shifts = low << 8, width << 8, shifts + 1
        return bit

    for s in symbols.tolist():
        model.step(s, code)
    size = 0
    while True:
        unit = 1 << 8 * (4 + shifts - size)
        first = -(-low // unit)
        if (first + 1) * unit <= low + width:
            return first.to_bytes(size, "big")
        size += 1


def decode(data: bytes, n: int, depth: int, columns: int) -> NDArray[np.uint8]:
    """The inverse; ValueError when `data` is not what `encode` makes of n symbols."""
    model = Model(depth, columns)
    padded = data + bytes(4 + 4 * depth * n)
    above, width, read = int.from_bytes(padded[:4], "big"), WHOLE, 4

    def code(bit: int, p: int) -> int:
        nonlocal above, width, read
        bound = (width >> 16) * p
        bit = int(above < bound)
        above, width = (above, bound) if bit else (above - bound, width - bound)
        while width < 1 << 24:
            above, width, read = above << 8 | padded[read], width << 8, read + 1
        return bit

    out: NDArray[Any] = np.array([model.step(0, code) for _ in range(n)], np.uint8)
    if encode(out, depth, columns) != data:
        raise ValueError("not what an encoder writes")
    return out
