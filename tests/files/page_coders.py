"""The coders of docs/format.md, written from it alone: each gives the symbols of one tile."""

from functools import cache
from io import BytesIO
from itertools import chain, pairwise, repeat

import numpy as np

T = [22, 36, 60, 99, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11954, 17625, 24743, 32768, 40793, 47911, 53582]
T += [57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65437, 65476, 65500, 65514]
E, A, a, b = [4194304, 3846194, 3526975, 3234251, 2965821, 2719670, 2493948, 2286960], [0], 2**31, 2145387520
for _ in range(256):
    A, a, b = [*A, A[-1] + a], a * b >> 31, b * 2145387520 >> 31
SQUASH = [(T[d // 128 + 16] * (128 - d % 128) + T[d // 128 + 17] * (d % 128) + 64) >> 7 for d in range(-2047, 2048)]
STRETCH = np.minimum(np.searchsorted([s >> 4 for s in SQUASH], range(4096)) - 2047, 2047).tolist()


def varint(b):
    byte = b.read(1)[0]
    return byte if byte < 128 else byte - 128 + 128 * varint(b)


def bits_of(data):
    return iter(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())


def take(bits, n, number=0):
    return take(bits, n - 1, 2 * number + next(bits)) if n else number


def gamma(bits):
    zeros = next(z for z in range(9) if next(bits))
    return take(bits, zeros, 1)


def lengths(bits, length, whole, entry):
    found = []
    while sum(weight for _, weight in found) < whole:
        g = gamma(bits)
        if g != 4:
            length += (0, -1, 1)[g - 1] if g < 4 else (g - 1) // 2 * (-1 if g % 2 else 1)
        found += [(0, 0)] * gamma(bits) if g == 4 else [entry(length)]
    return found


def rans(data, model, count):
    k, lanes, bits = 8 + model[0] % 8, 1 << model[0] // 8, bits_of(model[1:])
    table = [f for f, _ in lengths(bits, k, 2**k, lambda n: (take(bits, n - 1, 1),) * 2)]
    if 2**k in table:  # a lone symbol moves no state
        return repeat(table.index(2**k), count)
    return under(data, k, lanes, repeat(table, count))


def under(data, k, lanes, tables):
    states, words = (
        np.frombuffer(data[: 4 * lanes], "<u4").tolist(),
        iter(np.frombuffer(data[4 * lanes :], "<u2").tolist()),
    )
    for i, table in enumerate(tables):
        symbol, slot = 0, states[i % lanes] % 2**k
        while slot >= table[symbol]:
            symbol, slot = symbol + 1, slot - table[symbol]
        x = table[symbol] * (states[i % lanes] >> k) + slot
        states[i % lanes] = x << 16 | next(words) if x < 65536 else x
        yield symbol
    assert set(states) == {65536}


def huffman(data, model, count):
    bits, codes, code, last = bits_of(data), {}, 0, 0
    found = lengths(bits_of(model), 0, 4096, lambda n: (n, 4096 >> n))
    for n, symbol in sorted((n, symbol) for symbol, (n, weight) in enumerate(found) if weight):
        code, last = code << n - last, n
        codes[n, code], code = symbol, code + 1
    for _ in range(count):
        n = code = 0
        while (n, code) not in codes:
            n, code = n + 1, 2 * code + next(bits)
        yield codes[n, code]


def rans_tiles(data, model, count):
    b = BytesIO(data)
    table = b.read(varint(b))
    return rans(b.read(), table, count) if table else b.read()


@cache
def bell(t, d):
    def below(t, v):
        i, w = divmod((2 * v + 1) * E[t % 8] >> 2 + t // 8, 4096)
        return A[256] if i > 255 else A[i] + ((A[i + 1] - A[i]) * w >> 12)

    mixed = [
        sum(c * below(t + j * d, v) for j, c in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True)) for v in range(128)
    ]
    half, tail = 16 * A[256], [((high - low) * 2**12 + 16 * A[256]) // (32 * A[256]) for low, high in pairwise(mixed)]
    escape = max(1, ((half - mixed[sum(f > 0 for f in tail)]) * 2**13 + half) // (2 * half))
    return [2**12 - 2 * sum(tail) - escape, *tail, escape, *reversed(tail)]


def parametric(data, model, count, given):
    b, shift = BytesIO(data), (model[1] ^ 128) - 128
    escaped = iter(b.read(varint(b)) if model[0] & 64 else b"")
    tables = (bell(min(max(2 * g + shift, 0), 87), model[0] % 8) for g in given)
    for symbol in under(b.read(), 12, 1 << model[0] // 8 % 8, tables):
        yield next(escaped) if symbol == 128 else symbol


def approach(x, t, n):
    return x + ((t - x) * (2**17 // (2 * n + 3)) >> 16)


def level(m):
    x = (m >> 8) + 16
    return min(8 * (x.bit_length() - 5) + (x >> x.bit_length() - 4) % 8, 95)


def context(data, model, n):
    depth, columns, probs, weights, stats = model[0] % 8 + 1, int.from_bytes(model, "little") >> 3, {}, {}, {}
    coded, width, overall, total, left, here, expected = chain(data, repeat(0)), 2**32, 2**16, 0, 0, 0, 0
    above = int.from_bytes([next(coded) for _ in range(4)], "big")
    for i in range(n):
        here, expected = (here, expected) if i % columns else (overall, overall)
        mag, mean, seen = stats.get(i % columns, (overall, 0, 8))
        near, s, node = level(min(mag * (here + 1) // (expected + 1), 2**24)), mag + 2**14, 1
        for _ in range(depth):
            contexts = 0, level(mag), near, 24 * (16 * (mean + s) // s) + near // 4, left
            pairs = [probs.get((j, c, node), (2**21, 0)) for j, c in enumerate(contexts)]
            x, w = [STRETCH[q >> 10] for q, _ in pairs], weights.get(node, [13107] * 5)
            r = 15 if pairs[0][1] < 1023 else 17
            p = SQUASH[min(max(sum(a * b for a, b in zip(w, x, strict=True)) >> 16, -2047), 2047) + 2047]
            bound = (width >> 16) * p
            bit = int(above < bound)
            above, width = (above, bound) if bit else (above - bound, width - bound)
            while width < 2**24:
                above, width = above << 8 | next(coded), width << 8
            weights[node] = [a + ((b * (2**16 * bit - p) + 2 ** (r - 1)) >> r) for a, b in zip(w, x, strict=True)]
            for j, (q, k) in enumerate(pairs):
                probs[j, contexts[j], node] = approach(q, (2**22 - 1) * bit, k), min(k + 1, 1023)
            node = 2 * node + bit
        left = node - 2**depth
        v = 2**16 * (left - (left >> depth - 1 << depth))
        here, expected = here + (abs(v) - here >> 5), expected + (mag - expected >> 5)
        stats[i % columns] = approach(mag, abs(v), seen), approach(mean, v, seen), min(seen + 1, 1023)
        overall, total = approach(overall, abs(v), total), min(total + 1, 1023)
        yield left


CODERS = {0: lambda data, model, count: data, 1: rans, 2: huffman, 3: context, 4: parametric, 8: rans_tiles}
