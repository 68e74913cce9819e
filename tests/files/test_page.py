"""docs/format.md is enough to write a reader from: this one, in plain Python and NumPy, opens every golden file."""

from __future__ import annotations

import binascii
import json
import zlib
from pathlib import Path

import golden
import numpy as np
import pytest

SIZES = [4, 2, 2, 8, 8, 4, 2, 1, 1, 1, 1, 1, 2, 4, 8]
FLOATS = {0, 1, 2, 3, 10, 11}
ENDINGS = ["", "weight", "bias", ".weight", ".bias", "running_mean", "running_var", "num_batches_tracked"]


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def checksum(self) -> None:
        covered = self.data[: self.at]
        if len(covered) < 2048:
            assert int.from_bytes(self.take(2), "little") == binascii.crc_hqx(covered, 0xFFFF)
        else:
            assert int.from_bytes(self.take(4), "little") == zlib.crc32(covered)


def artifact(folder: Path) -> dict[str, bytes]:
    """Records by parameter name."""
    index = folder / "model.safetensors.index.json"
    shards = (
        sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    )
    tensors = {}
    for shard in shards:
        data = (folder / shard).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            a, b = entry["data_offsets"]
            tensors[name] = data[start + a : start + b]
    return table(tensors["rarefy"]) if set(tensors) == {"rarefy"} else tensors


def table(data: bytes) -> dict[str, bytes]:
    b = Bytes(data)
    end = b.varint() + b.at
    v = b.varint()
    assert v % 16 == 1
    names, before = [], b""
    for _ in range(v // 16):
        shared = b.varint()
        v = b.varint()
        before = before[:shared] + b.take(v // 8) + ENDINGS[v % 8].encode()
        names.append(before.decode())
    sizes = [b.varint() for _ in names]
    assert b.at == end
    b.checksum()
    return {name: b.take(size) for name, size in zip(names, sizes, strict=True)}


def frequencies(model: bytes) -> tuple[np.ndarray, int, int]:
    k, lanes = 8 + model[0] % 8, 2 ** (model[0] // 8)
    bits = "".join(f"{byte:08b}" for byte in model[1:])
    f, length, at = [], k, 0

    def gamma() -> int:
        nonlocal at
        one = bits.index("1", at)
        g = int(bits[one : 2 * one - at + 1], 2)
        at = 2 * one - at + 1
        return g

    while sum(f) < 2**k:
        g = gamma()
        if g == 4:
            f += [0] * gamma()
            continue
        step = [0, -1, 1][g - 1] if g < 4 else (g - 1) // 2 * (-1 if g % 2 else 1)
        length += step
        f.append(int("1" + bits[at : at + length - 1], 2))
        at += length - 1
    return np.array(f), k, lanes


def rans(data: bytes, model: bytes, count: int) -> np.ndarray:
    f, k, lanes = frequencies(model)
    starts = np.cumsum(f) - f
    owner = np.repeat(np.arange(len(f)), f)
    states = [int(x) for x in np.frombuffer(data[: 4 * lanes], "<u4")]
    words = iter(np.frombuffer(data[4 * lanes :], "<u2").tolist())
    out = np.empty(count, np.uint8)
    if len(data) == 4 * lanes and np.count_nonzero(f) == 1:  # the loop below, which would not change anything
        out[:] = owner[0]
        count = 0
    for i in range(count):
        x = states[i % lanes]
        slot = x % 2**k
        s = out[i] = owner[slot]
        x = int(f[s]) * (x // 2**k) + slot - int(starts[s])
        states[i % lanes] = x * 65536 + next(words) if x < 65536 else x
    assert set(states) == {65536} and next(words, None) is None
    return out


def record(data: bytes) -> tuple[np.ndarray, int]:
    """Values as float32 and the number of the type to restore."""
    b = Bytes(data)
    end = b.varint() + b.at
    d = b.varint()
    dtype = d % 32
    assert dtype != 31
    shape = tuple(b.varint() for _ in range(d // 32))
    tree = node(b)
    streams = []
    count = int(np.prod(shape, dtype=np.int64))
    while b.at < end:
        tag = b.varint()
        coder = tag // 4
        count = b.varint() if tag & 2 else count
        model = b.take(b.varint()) if coder else b""
        if tag & 1:
            streams.append((coder, count, model, count, [(b.take(b.varint() if coder else count), None)]))
            continue
        tiles = b.varint() + 1
        per = b.varint() if tiles > 1 else count
        sizes = []
        for i in range(tiles):
            size = b.varint() if coder else min(per, count - i * per)
            sizes.append((size, int.from_bytes(b.take(4), "little")))
        streams.append((coder, count, model, per, sizes))
    assert b.at == end
    b.checksum()
    symbols = iter([decode(b, *stream) for stream in streams])
    assert b.at == len(data)
    return values(tree, shape, symbols, None).reshape(shape), dtype


def node(b: Bytes) -> tuple:
    v = b.varint()
    settings = [b.varint() for _ in range(v // 4 % 8)]
    return v // 32, settings, [node(b) for _ in range(v % 4)]


def decode(b: Bytes, coder: int, count: int, model: bytes, per: int, tiles: list) -> np.ndarray:
    parts = [np.empty(0, np.uint8)]
    for i, (tile, check) in enumerate(tiles):
        coded = tile if check is None else b.take(tile)
        assert check is None or zlib.crc32(coded) == check
        n = min(per, count - i * per)
        parts.append(rans(coded, model, n) if coder else np.frombuffer(coded, np.uint8))
    return np.concatenate(parts)


def values(tree: tuple, shape: tuple, symbols, keep) -> np.ndarray:
    kind, settings, inside = tree
    total = int(np.prod(shape, dtype=np.int64))
    keep = np.ones(total, bool) if keep is None else keep
    out = np.zeros(total, np.float32)
    if kind == 0:
        out[keep] = dense(settings[0], [next(symbols) for _ in range(SIZES[settings[0]])])
    elif kind == 1:
        bits, group, affine, whole = settings
        rows = shape[0] if len(shape) > 1 else 1
        columns = int(np.prod(shape[1:] if len(shape) > 1 else shape, dtype=np.int64))
        groups = max(1, -(-columns // group))
        each = (1, 1) if whole else (rows, groups)
        scale = values(inside[0], each, symbols, None).reshape(each)
        z = next(symbols).reshape(each).astype(int) if affine else np.full(each, 1 << (bits - 1))
        s = np.zeros(total, int)
        s[keep] = next(symbols)
        column = np.arange(columns) // group
        spread = [np.broadcast_to(a, (rows, groups))[:, column] for a in (z, scale)]
        q = (s.reshape(rows, columns) + spread[0]) % (1 << bits)
        out = ((q - spread[0]).astype(np.float32) * spread[1]).reshape(-1)
        out = np.where(keep, out, np.float32(0))
    else:
        own = np.unpackbits(next(symbols), bitorder="little")[:total].astype(bool)
        out = np.where(own, values(inside[0], shape, symbols, keep & own), np.float32(0))
    return out


def dense(dtype: int, planes: list[np.ndarray]) -> np.ndarray:
    width = len(planes)
    bits = np.zeros(planes[0].size, np.uint64)
    for plane in planes:
        bits = bits << np.uint64(8) | plane
    if dtype in FLOATS:
        bits = bits >> np.uint64(1) | (bits & np.uint64(1)) << np.uint64(8 * width - 1)
    if dtype == 1:
        return (bits << np.uint64(16)).astype("<u4").view("<f4")
    raw = bits.astype(f"<u{width}")
    return raw.view({0: "<f4", 2: "<f2", 5: "<i4", 7: "i1"}[dtype]).astype(np.float32)


@pytest.mark.parametrize("name", sorted(golden.CODES))
def test_reads_golden_records(name: str) -> None:
    read, dtype = record((golden.FOLDER / f"{name}.record").read_bytes())
    code, original = golden.CODES[name]()
    assert golden.NUMBERS[original] == dtype
    np.testing.assert_array_equal(read, code.decode())
    assert read.shape == code.shape


@pytest.mark.parametrize("name", ["single", "spread", "shards"])
def test_reads_golden_artifacts(name: str) -> None:
    read = artifact(golden.FOLDER / name)
    assert read == dict(golden.items())
    for key, data in read.items():
        np.testing.assert_array_equal(record(data)[0], golden.CODES[golden.PARAMETERS[key]]()[0].decode())
