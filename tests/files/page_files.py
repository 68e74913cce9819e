"""Weight files by docs/format.md: the layouts, and the compact form of records."""

import json
import math
from io import BytesIO

import numpy as np
from page import checked, node, record, symbols, values
from page_coders import varint

ENDINGS = [b"", b"weight", b"bias", b".weight", b".bias", b"running_mean", b"running_var", b"num_batches_tracked"]


def artifact(folder):
    """Values and types by parameter name."""
    index, tensors, names, name = folder / "model.safetensors.index.json", {}, [], b""
    for shard in set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]:
        data = (folder / shard).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        offsets = {k: v["data_offsets"] for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
        tensors |= {name: data[start + a : start + z] for name, (a, z) in offsets.items()}
    if set(tensors) != {"rarefy"}:
        return {name: record(data) for name, data in tensors.items()}
    b = BytesIO(tensors["rarefy"])
    end = varint(b) + b.tell()
    for _ in range(varint(b) >> (4 if end > 1 else 0)):
        shared, (length, ending) = varint(b), divmod(varint(b), 8)
        name = name[:shared] + b.read(length) + ENDINGS[ending]
        names.append(name.decode())
    if end == 1:
        return dict(zip(names, compact(b, len(names)), strict=True))
    sizes = [varint(b) for _ in names]
    checked(b, end)
    return {name: record(b.read(size)) for name, size in zip(names, sizes, strict=True)}


def compact(b, count):
    found, nodes = [], {}
    for _ in range(count):
        dimensions, dtype = divmod(varint(b), 32)
        shape = tuple(varint(b) for _ in range(dimensions))
        nodes[dimensions] = nodes[dimensions] if dtype & 16 else node(b)
        tree = told(nodes[dimensions], math.prod(shape[1:] if dimensions > 1 else shape))
        read = streams(b, math.prod(shape))
        found.append((values(tree, shape, read, np.ones(math.prod(shape), bool), None), shape, dtype % 16))
    checked(b, b.tell())
    return [(out.astype("f4").reshape(shape), dtype) for out, shape, dtype in found]


def told(tree, columns):
    kind, settings, inside = tree
    group = [columns if kind == 1 and i == 1 and not s else s for i, s in enumerate(settings)]
    return kind, group, [told(child, columns) for child in inside]


def streams(b, elements):
    before = elements

    def read(given=None):
        nonlocal before
        coder, how = divmod(varint(b), 4)
        before = (before, elements)[how] if how < 2 else varint(b)
        model = b.read(varint(b)) if coder else b""
        coded = b.read(varint(b) if coder else before)
        return symbols(b, given, coder, model, coded, [(before, len(coded), b"")])

    return read
