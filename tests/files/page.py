"""A reader of Rarefy's weight files, written from docs/format.md alone, with NumPy and without speed."""

import binascii
import math
from io import BytesIO

import numpy as np
from page_coders import CODERS, varint

SIZES = [4, 2, 2, 8, 8, 4, 2, 1, 1, 1, 1, 1, 2, 4, 8]
MANTISSA = {0: 23, 1: 7, 2: 10, 3: 52, 10: 3, 11: 2}
ROOTS = [np.float32(math.prod(2.0 ** (2**b / 32) for b in range(5) if k >> b & 1)) for k in range(32)]


def checked(b, end):
    covered = b.getvalue()[:end]
    n, value = (2, binascii.crc_hqx(covered, 0xFFFF)) if end < 2048 else (4, binascii.crc32(covered))
    assert (b.tell(), b.read(n)) == (end, value.to_bytes(n, "little"))


def record(data, base=None):
    """Values as float32, and the number of the type to restore. base: bits of the elements of a difference's base."""
    b, streams = BytesIO(data), []
    end = varint(b) + b.tell()
    dimensions, dtype = divmod(varint(b), 32)
    shape = tuple(varint(b) for _ in range(dimensions))
    tree, count = node(b), math.prod(shape)
    while b.tell() < end:
        coder, flags = divmod(varint(b), 4)
        count = varint(b) if flags & 2 else count
        model, tiles = b.read(varint(b)) if coder else b"", 1 if flags & 1 else varint(b) + 1
        per = varint(b) if tiles > 1 else count
        counts = [min(per, count - per * i) for i in range(tiles)]
        sizes = [(n, varint(b) if coder else n, b.read(4) if not flags & 1 else b"") for n in counts]
        streams.append((coder, model, b.read(sizes[0][1]) if flags & 1 else None, sizes))
    checked(b, end)
    left = iter(streams)
    out = values(tree, shape, lambda given=None: symbols(b, given, *next(left)), np.ones(math.prod(shape), bool), base)
    assert (next(left, None), b.read(1)) == (None, b"")
    return out.astype("f4").reshape(shape), dtype


def node(b):
    kind, inside = divmod(varint(b), 32)
    return kind, [varint(b) for _ in range(inside // 4)], [node(b) for _ in range(inside % 4)]


def symbols(b, given, coder, model, inline, sizes):
    out, given = [], np.zeros(sum(count for count, _, _ in sizes), int) if given is None else given
    for count, size, check in sizes:
        coded = b.read(size) if inline is None else inline
        assert inline is not None or binascii.crc32(coded).to_bytes(4, "little") == check
        more = (given[len(out) : len(out) + count].tolist(),) if coder == 4 else ()
        out += CODERS[coder](coded, model, count, *more)
    return np.array(out, np.uint64)


def values(tree, shape, read, keep, base):
    (kind, settings, inside), out, rows = tree, np.zeros(keep.size), shape[0] if len(shape) > 1 else 1
    columns = keep.size // max(rows, 1)
    if kind in (0, 8):
        dtype, bits = settings[0], joined(read, settings[0])
        if dtype in MANTISSA and settings[1:] != [1]:
            bits = bits >> np.uint64(1) | bits % np.uint64(2) << np.uint64(8 * SIZES[dtype] - 1)
        out[keep] = reals(undone(bits, base, *settings) if kind else bits, dtype)
    elif kind == 1:
        bits, group, affine, whole = settings
        each = (1, 1) if whole else (rows, max(1, -(-columns // group)))
        scale = values(inside[0], each, read, np.ones(math.prod(each), bool), None).reshape(each).astype("f4")
        z = read().reshape(each).astype(int) if affine else np.full(each, 1 << (bits - 1))
        out[keep] = read()
        z, scale = (np.broadcast_to(a, (rows, a.shape[1]))[:, np.arange(columns) // group] for a in (z, scale))
        out = np.where(keep, (((out.reshape(z.shape) + z) % 2**bits - z).astype("f4") * scale).reshape(-1), 0)
    elif kind == 3:
        dtype, k, order = settings
        bits = floats(np.cumsum(joined(read, dtype)), SIZES[dtype])
        z = int((bits >> np.uint64(8 * SIZES[dtype] - 1)).sum())
        turned = np.arange(keep.size).reshape(shape).flatten("CF"[order])
        turned = turned[keep[turned]]
        out[turned] = reals(bits, dtype)[(read().astype(int) + z) % 2 ** (k - 1).bit_length()]
    elif kind == 4:
        e = [values(t, (n,), read, np.ones(n, bool), None) for t, n in zip(inside, (rows, columns, 3), strict=True)]
        spread = [read().astype("i1").astype(int) for _ in range(2)]
        given = np.clip(spread[0][:, None] + spread[1], 0, 43).reshape(-1)[keep]
        q = read(given).astype("i1").astype(int)
        q[q == -128] = np.frombuffer(bytes(read().tolist()), "<i4")
        steps = np.sign(q) * [[0, *e[2]][a] if a < 4 else a for a in np.abs(q)]
        scale = [np.array([np.ldexp(ROOTS[x % 32], x // 32) for x in s.astype(int).tolist()], "f4") for s in e[:2]]
        out[keep] = steps.astype("f4") * (scale[0][:, None] * scale[1]).reshape(-1)[keep]
    elif kind == 5:
        shapes = (rows, settings[0]), (settings[0], columns)
        parts = zip(inside, shapes, strict=True)
        a, b = (values(t, s, read, np.ones(math.prod(s), bool), None).astype("f4").reshape(s) for t, s in parts)
        out = (a.astype("f8") @ b.astype("f8")).reshape(-1)
    elif kind == 6:
        one, other = (values(t, shape, read, keep, None).astype("f4") for t in inside)
        out = one + other
    elif kind == 7:
        group, whole = settings
        each = (1 if whole else rows, max(1, -(-columns // group)))
        scale = values(inside[0], (math.prod(each),), read, np.ones(math.prod(each), bool), None).astype("f4")
        scale = np.broadcast_to(scale.reshape(each), (rows, each[1]))[:, np.arange(columns) // group].reshape(-1)
        out = values(inside[1], shape, read, keep, None).astype("f4") * scale
    elif kind == 10:
        steps, own = read().astype(int), np.zeros(keep.size, bool)
        own[(np.cumsum(steps + (steps < 255)) - 1)[steps < 255]] = True
        out = np.where(own, values(inside[0], shape, read, keep & own, base), 0)
    elif kind == 9:
        turned = values(inside[0], shape[::-1], read, keep.reshape(shape).T.reshape(-1), None)
        out = turned.reshape(shape[::-1]).T.reshape(-1)
    else:
        own = np.unpackbits(read().astype(np.uint8), bitorder="little")[: keep.size].astype(bool)
        out = np.where(own, values(inside[0], shape, read, keep & own, base), 0)
    return out


def joined(read, dtype):
    bits = np.uint64(0)
    for _ in range(SIZES[dtype]):
        bits = bits << np.uint64(8) | read()
    return bits


def reals(bits, dtype):
    if dtype not in MANTISSA:
        return bits.astype(f"u{SIZES[dtype]}").view(f"{'i' if 4 <= dtype <= 7 else 'u'}{SIZES[dtype]}")
    m, e = MANTISSA[dtype], 8 * SIZES[dtype] - 1 - MANTISSA[dtype]
    fraction, exponent = bits % np.uint64(2**m) / 2**m, (bits >> np.uint64(m)).astype(int) % 2**e
    size = np.ldexp(fraction + (exponent > 0), np.maximum(exponent, 1) - 2 ** (e - 1) + 1)
    special = np.where(fraction, np.nan, np.inf) if dtype != 10 else np.where(fraction == 7 / 8, np.nan, size)
    return np.where(exponent == 2**e - 1, special, size) * np.where(bits >> np.uint64(m + e), -1, 1)


def undone(bits, base, dtype, way):
    top, order = np.uint64(1 << 8 * SIZES[dtype] - 1), np.arange(bits.size)
    if dtype in MANTISSA:
        order = np.lexsort((base % top >> np.uint64(MANTISSA[dtype]), order >> 18))
    steps = bits[np.argsort(order)]
    if way == 0:
        return steps ^ base
    half = steps + np.uint64(1) >> np.uint64(1)
    place = np.where(base < top, base ^ top, ~base) if dtype in MANTISSA else base
    place = np.where(steps % np.uint64(2), place - half, place + half) & top + (top - np.uint64(1))
    return floats(place, SIZES[dtype]) if dtype in MANTISSA else place


def floats(place, size):
    top = np.uint64(1 << 8 * size - 1)
    return np.where(place < top, place ^ (top + (top - np.uint64(1))), place ^ top)
