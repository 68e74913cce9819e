"""A reader of Rarefy's weight files, written from docs/format.md alone, with NumPy and without speed."""

import binascii
import json
import math
import zlib
from io import BytesIO

import numpy as np
from page_coders import CODERS, varint

SIZES = [4, 2, 2, 8, 8, 4, 2, 1, 1, 1, 1, 1, 2, 4, 8]
MANTISSA = {0: 23, 1: 7, 2: 10, 3: 52, 10: 3, 11: 2}
ENDINGS = [b"", b"weight", b"bias", b".weight", b".bias", b"running_mean", b"running_var", b"num_batches_tracked"]


def checked(b, end):
    covered = b.getvalue()[:end]
    n, value = (2, binascii.crc_hqx(covered, 0xFFFF)) if end < 2048 else (4, zlib.crc32(covered))
    assert (b.tell(), b.read(n)) == (end, value.to_bytes(n, "little"))


def artifact(folder):
    index, tensors, names, name = folder / "model.safetensors.index.json", {}, [], b""
    for shard in set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]:
        data = (folder / shard).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        offsets = {k: v["data_offsets"] for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
        tensors |= {name: data[start + a : start + z] for name, (a, z) in offsets.items()}
    if set(tensors) != {"rarefy"}:
        return tensors
    b = BytesIO(tensors["rarefy"])
    end = varint(b) + b.tell()
    for _ in range(varint(b) >> 4):
        shared, (length, ending) = varint(b), divmod(varint(b), 8)
        name = name[:shared] + b.read(length) + ENDINGS[ending]
        names.append(name.decode())
    sizes = [varint(b) for _ in names]
    checked(b, end)
    return {name: b.read(size) for name, size in zip(names, sizes, strict=True)}


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
    streams = iter([symbols(b, *stream) for stream in streams])
    return values(tree, shape, streams, np.ones(math.prod(shape), bool), base).astype("f4").reshape(shape), dtype


def node(b):
    kind, inside = divmod(varint(b), 32)
    return kind, [varint(b) for _ in range(inside // 4)], [node(b) for _ in range(inside % 4)]


def symbols(b, coder, model, inline, sizes):
    out = []
    for count, size, check in sizes:
        coded = b.read(size) if inline is None else inline
        assert inline is not None or zlib.crc32(coded).to_bytes(4, "little") == check
        out += CODERS[coder](coded, model, count)
    return np.array(out, np.uint64)


def values(tree, shape, streams, keep, base):
    (kind, settings, inside), out, rows = tree, np.zeros(keep.size), shape[0] if len(shape) > 1 else 1
    if kind in (0, 8):
        dtype, bits = settings[0], np.uint64(0)
        for _ in range(SIZES[dtype]):
            bits = bits << np.uint64(8) | next(streams)
        if dtype in MANTISSA and settings[1:] != [1]:
            bits = bits >> np.uint64(1) | bits % np.uint64(2) << np.uint64(8 * SIZES[dtype] - 1)
        out[keep] = reals(undone(bits, base, *settings) if kind else bits, dtype)
    elif kind == 1:
        (bits, group, affine, whole), columns = settings, keep.size // max(rows, 1)
        each = (1, 1) if whole else (rows, max(1, -(-columns // group)))
        scale = values(inside[0], each, streams, np.ones(math.prod(each), bool), None).reshape(each).astype("f4")
        z = next(streams).reshape(each).astype(int) if affine else np.full(each, 1 << (bits - 1))
        out[keep] = next(streams)
        z, scale = (np.broadcast_to(a, (rows, a.shape[1]))[:, np.arange(columns) // group] for a in (z, scale))
        out = np.where(keep, (((out.reshape(z.shape) + z) % 2**bits - z).astype("f4") * scale).reshape(-1), 0)
    elif kind == 3:
        (dtype, k, order), gaps = settings, np.uint64(0)
        for _ in range(SIZES[dtype]):
            gaps = gaps << np.uint64(8) | next(streams)
        bits = floats(np.cumsum(gaps), SIZES[dtype])
        z = int((bits >> np.uint64(8 * SIZES[dtype] - 1)).sum())
        turned = np.arange(keep.size).reshape(shape).flatten("CF"[order])
        turned = turned[keep[turned]]
        out[turned] = reals(bits, dtype)[(next(streams).astype(int) + z) % 2 ** (k - 1).bit_length()]
    else:
        own = np.unpackbits(next(streams).astype(np.uint8), bitorder="little")[: keep.size].astype(bool)
        out = np.where(own, values(inside[0], shape, streams, keep & own, base), 0)
    return out


def reals(bits, dtype):
    if dtype not in MANTISSA:
        return bits.astype(f"u{SIZES[dtype]}").view(f"{'i' if 4 <= dtype <= 7 else 'u'}{SIZES[dtype]}")
    m, e = MANTISSA[dtype], 8 * SIZES[dtype] - 1 - MANTISSA[dtype]
    fraction, exponent = bits % np.uint64(2**m) / 2**m, (bits >> np.uint64(m)).astype(int) % 2**e
    size = np.ldexp(fraction + (exponent > 0), np.maximum(exponent, 1) - 2 ** (e - 1) + 1)
    special = np.where(fraction, np.nan, np.inf) if dtype != 10 else np.where(fraction == 7 / 8, np.nan, size)
    return np.where(exponent == 2**e - 1, special, size) * np.where(bits >> np.uint64(m + e), -1, 1)


def undone(bits, base, dtype, way):
    """Bits of elements from those of their difference and of the base."""
    top, order = np.uint64(1 << 8 * SIZES[dtype] - 1), np.arange(bits.size)
    mask = top + (top - np.uint64(1))
    if dtype in MANTISSA:
        order = np.lexsort((base % top >> np.uint64(MANTISSA[dtype]), order >> 18))
    steps = bits[np.argsort(order)]
    if way == 0:
        return steps ^ base
    half = steps + np.uint64(1) >> np.uint64(1)
    place = np.where(base < top, base ^ top, base ^ mask) if dtype in MANTISSA else base
    place = np.where(steps % np.uint64(2), place - half, place + half) & mask
    return floats(place, SIZES[dtype]) if dtype in MANTISSA else place


def floats(place, size):
    """Bits of floats of `size` bytes from their places in order."""
    top = np.uint64(1 << 8 * size - 1)
    return np.where(place < top, place ^ (top + (top - np.uint64(1))), place ^ top)
