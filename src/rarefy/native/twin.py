"""The compiled kernels in NumPy: slow, plain, and equal to them byte for byte.

Tests hold the kernels to this file; a reader in another language can be written from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

L = 1 << 16
"""Lower bound of a state, and its initial value."""


def _starts(freqs: NDArray[np.uint16]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(freqs, dtype=np.int64)[:-1]])


def rans_encode(
    symbols: NDArray[np.uint8], freqs: NDArray[np.uint16], k: int, lanes: int, given: NDArray[np.uint8] | None = None
) -> bytes:
    """All lanes at once, the last step first; Duda 2013, section 3 (the range variant).

    freqs: of each symbol; with `given`, a row for each of its values.
    """
    every = np.atleast_2d(freqs)
    told = np.zeros(symbols.shape, np.uint8) if given is None else given
    starts = np.stack([_starts(row) for row in every])
    f, start = every[told, symbols].astype(np.int64), starts[told, symbols]
    x = np.full(lanes, L, np.int64)
    words = []
    for i in reversed(range(0, symbols.size, lanes)):
        of = slice(i, min(i + lanes, symbols.size))
        y = x[: of.stop - i]
        full = y >= f[of] << (32 - k)
        words.append(y[full] & 0xFFFF)
        y[full] >>= 16
        y[:] = (y // f[of] << k) + start[of] + y % f[of]
    stream = np.concatenate([*reversed(words), np.empty(0, np.int64)])
    return x.astype("<u4").tobytes() + stream.astype("<u2").tobytes()


def rans_decode(
    data: bytes, n: int, freqs: NDArray[np.uint16], k: int, lanes: int, given: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The inverse; ValueError when `data` is not exactly one stream of n symbols."""
    every = np.atleast_2d(freqs).astype(np.int64)
    told = np.zeros(n, np.uint8) if given is None else given
    starts = np.stack([_starts(row) for row in np.atleast_2d(freqs)])
    owner = np.zeros((len(every), 1 << k), np.int64)
    for row in np.unique(told):
        owner[row] = np.repeat(np.arange(every.shape[1]), every[row])
    if len(data) < 4 * lanes or len(data) % 2:
        raise ValueError("no whole stream")
    x = np.frombuffer(data, "<u4", lanes).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
    if (x < L).any():
        raise ValueError("a state below 2^16")
    out = np.empty(n, np.uint8)
    used = 0
    for i in range(0, n, lanes):
        y = x[: n - i]
        g = told[i : i + lanes]
        slot = y & ((1 << k) - 1)
        s = owner[g, slot]
        out[i : i + lanes] = s
        y[:] = every[g, s] * (y >> k) + slot - starts[g, s]
        low = np.flatnonzero(y < L)
        if used + low.size > words.size:
            raise ValueError("truncated")
        y[low] = y[low] << 16 | words[used : used + low.size]
        used += low.size
    if used != words.size or (x != L).any():
        raise ValueError("bytes left over, or a lane not in its initial state")
    return out


def _log_step(f: int) -> int:
    """About 2^32 ln(1 + 1/f), by the series of 2 atanh(1 / (2f + 1)) with each term truncated."""
    d = 2 * f + 1
    total, power, odd = 0, (1 << 33) // d, 1
    while power:
        total += power // odd
        power //= d * d
        odd += 2
    return total


def quantize_counts(counts: NDArray[np.int64], k: int) -> NDArray[np.uint16]:
    """Proportional shares, brought to the sum 2^k, then exchanged while that shortens the code; Fox 1966."""
    exact = [int(c) for c in counts]
    shift = 0
    while sum(max(c >> shift, 1) for c in exact if c) >= 1 << 31:
        shift += 1
    c = {s: max(n >> shift, 1) for s, n in enumerate(exact) if n}
    total, whole = sum(c.values()), 1 << k
    f = {s: max(n * whole // total, 1) for s, n in c.items()}

    def gain(s: int) -> int:
        return c[s] * _log_step(f[s])

    def loss(s: int) -> int:
        return c[s] * _log_step(f[s] - 1) if f[s] > 1 else (1 << 64) - 1

    while sum(f.values()) < whole:
        f[max(f, key=gain)] += 1
    while sum(f.values()) > whole:
        f[min(f, key=loss)] -= 1
    while len(f) > 1 and gain(up := max(f, key=gain)) > loss(down := min(f, key=loss)):
        f[up] += 1
        f[down] -= 1
    out = np.zeros(len(exact), np.uint16)
    out[list(f)] = list(f.values())
    return out


def dequantize_groups(
    q: NDArray[np.uint8], scale: NDArray[np.float32], zero: NDArray[np.float32], group: int
) -> NDArray[np.float32]:
    """(q - zero) * scale in float32, a scale and a zero for each `group` columns."""
    of = np.arange(q.shape[1]) // group
    return (q.astype(np.float32) - zero.astype(np.float32)[:, of]) * scale[:, of]


def round_block(
    weights: NDArray[np.float32],
    within: NDArray[np.float32],
    reciprocal: NDArray[np.float32],
    scales: NDArray[np.float32],
    steps: NDArray[np.float32],
    points: NDArray[np.float32],
    keep: NDArray[np.bool_] | None,
    q: NDArray[np.int32],
    errors: NDArray[np.float32],
    left: NDArray[np.float32] | None,
) -> None:
    """Sequential rounding with feedback inside a block, as rounding.hpp says; matrices are (columns, rows)."""
    for i in range(len(weights)):
        column = weights[i].copy()
        for j in range(i):
            column -= within[i, j] * errors[j]
        step = scales * steps[i]
        level = column / step
        value = np.rint(level)
        if keep is not None:
            value[~keep[i]] = 0
        q[i] = value
        size = np.abs(value)
        for k in range(3):
            np.copyto(value, points[k], where=size == k + 1)
        value = np.copysign(np.abs(value), level)
        if left is not None:
            left[i] = level - value
        weights[i] = value * step
        errors[i] = (column - weights[i]) * reciprocal[i]
