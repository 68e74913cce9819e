"""What a safetensors header may say of where its tensors are."""

from __future__ import annotations

import json
from typing import Any

from attacks import MODEL, attack


def entry(dtype: Any = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def plain(header: Any, payload: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file whose header says what it likes; size: the length that it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + payload


HEADERS = {
    "truncated": {
        "an empty file": b"",
        "a file of half a length": b"\x02\0\0",
        "a header that ends early": b"\x02\0\0\0\0\0\0\0",
        "a tensor that ends early": plain({"a": entry(shape=(3,), offsets=(0, 3))}, b"ab"),
    },
    "re-ordered": {
        "offsets backwards": plain({"a": entry(offsets=(2, 0))}, b"ab"),
        "a gap between tensors": plain({"a": entry(), "b": entry(offsets=(3, 5))}, b"abcde"),
    },
    "overlapping": {
        "two tensors overlap": plain({"a": entry(), "b": entry(offsets=(1, 3))}, b"abc"),
        "two tensors in one place": plain({"a": entry(), "b": entry()}, b"ab"),
    },
    "oversized": {
        "bytes after the last tensor": plain({"a": entry()}, b"abc"),
        "a header longer than the file": plain({}, size=1000),
    },
    "lying": {
        "a size that is not shape times type": plain({"a": entry("F32")}, b"ab"),
        "one offset": plain({"a": entry(offsets=(0,))}, b"ab"),
        "a negative shape": plain({"a": entry(shape=(-1, -2))}, b"ab"),
        "a shape of truths": plain({"a": entry(shape=(True, 2))}, b"ab"),
        "a shape of fractions": plain({"a": entry(shape=(2.0,))}, b"ab"),
        "a shape that is a number": plain({"a": {**entry(), "shape": 2}}, b"ab"),
        "a type that is a number": plain({"a": entry(dtype=1)}, b"ab"),
        "an entry without a shape": plain({"a": {"dtype": "U8", "data_offsets": [0, 2]}}, b"ab"),
        "an entry that is text": plain({"a": "b"}),
        "metadata of numbers": plain({"__metadata__": {"a": 1}}),
        "metadata that is text": plain({"__metadata__": "a"}),
        "not a number": plain(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
        "a header that is a list": plain([1]),
        "a header that is no JSON": plain(b"{'a': 1}"),
        "a header that is no UTF-8": plain(b'{"\xff": 1}'),
        "half a letter in a name": plain(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    },
    "gigantic": {
        "a header of 2^63 bytes": plain({}, size=2**63),
        "a shape of 2^122": plain({"a": entry(shape=(2**61, 2**61, 0), offsets=(0, 0))}),
        "a shape of 1,001 dimensions": plain({"a": entry(shape=[1] * 1000 + [2])}, b"ab"),
        "a number of 10,000 digits": plain(b'{"a":' + b"9" * 10_000 + b"}"),
        "brackets 100,000 deep": plain(b"[" * 100_000),
    },
    "duplicate or cyclic": {
        "a tensor twice in a header": plain(b'{"a":{},"a":{}}'),
    },
}

for kind, files in HEADERS.items():
    for name, data in files.items():
        attack(kind, name, lambda folder, data=data: (folder / MODEL).write_bytes(data), "is not a safetensors file")
