"""What bytes from a stranger go through in Python, one input at a time. `guided.py` makes the inputs.

The first byte of an input chooses the reader. A reader answers or raises a RarefyError of one line; whatever it accepts
must be written and read again as the same. Checksums are put right here: they stop accidents, not attackers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rarefy.codes import Codebook, Dense, Grid, Sparse
from rarefy.codes.difference import Difference
from rarefy.codes.dtypes import dtype_of
from rarefy.codes.factored import Factored
from rarefy.codes.scaled import Scaled
from rarefy.codes.separable import Separable
from rarefy.codes.summed import Sum
from rarefy.codes.transposed import Transposed
from rarefy.entropy import coders, context, huffman, table
from rarefy.errors import FormatError, RarefyError
from rarefy.files import compact, manifest, record
from rarefy.files.atomic import canonical_json
from rarefy.files.container import ALL, COMPACT, Reader
from rarefy.files.directory import INDEX, SINGLE
from rarefy.files.head import checksum, write_head
from rarefy.files.names import read_names, write_names
from rarefy.files.parse import parse_head
from rarefy.files.restoring import Held, restore
from rarefy.files.safetensors import header_bytes, parse_header, strict_json
from rarefy.files.varint import Cursor, varint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rarefy.codes import Code

SMALL = 1 << 20
"""Elements up to which a tensor is also decoded."""

FOLDER = Path(tempfile.mkdtemp(prefix="rarefy-fuzz-"))


def sealed(body: bytes) -> bytes:
    """A head or table of this body: its length before it, its checksum after it."""
    covered = varint(len(body)) + body
    return covered + checksum(covered)


def head(data: bytes) -> None:
    first = parse_head(sealed(data))
    again = write_head(first.shape, dtype_of(first.dtype).number, first.node, list(first.streams))
    assert parse_head(again).streams == first.streams


def whole_record(data: bytes) -> None:
    """Two bytes that say where the head ends, the head, its tiles."""
    end = 2 + int.from_bytes(data[:2], "little")
    sent = sealed(data[2:end]) + data[end:]
    record.check(sent)
    code, dtype = record.decode(sent)
    if code.node().kind == Difference.KIND:
        return
    again, same = record.decode(record.encode(code, dtype))
    assert same == dtype
    assert symbols(again) == symbols(code)
    if np.prod(code.shape) <= SMALL:
        with np.errstate(all="ignore"):
            assert code.decode().tobytes() == again.decode().tobytes()


def symbols(code: Code) -> list[bytes]:
    return [np.ascontiguousarray(stream.symbols).tobytes() for stream in code.streams()]


def restored(data: bytes) -> None:
    sent = sealed(data)
    first = parse_head(sent)
    for _ in restore(Held({"w": sent}), [("w", first, None)], 1):
        pass


def names(data: bytes) -> None:
    cursor = Cursor(data[1:], "the table")
    first = read_names(cursor, data[0] if data else 0)
    assert read_names(Cursor(write_names(first), "the table"), len(first)) == first


def varints(data: bytes) -> None:
    cursor = Cursor(data, "the bytes")
    while cursor.left:
        value = cursor.varint()
        assert Cursor(varint(value), "the bytes").varint() == value


def safetensors_header(data: bytes) -> None:
    parse_header(data[2:], int.from_bytes(data[:2], "little"))


def opened(**files: bytes) -> None:
    """A directory of these files, opened as an artifact; every record is looked into."""
    for old in FOLDER.iterdir():
        old.unlink()
    for name, content in files.items():
        (FOLDER / name.replace("__", "-")).write_bytes(content)
    reader = Reader(FOLDER)
    try:
        for name in reader.names():
            reader.head(name)
            reader.code(name)
    finally:
        reader.close()


def file(data: bytes) -> None:
    opened(**{SINGLE: data})


def header_of_spread(data: bytes) -> None:
    """A file whose header says what the input says, before as many bytes as its first two say."""
    header = data[2:]
    payload = bytes(int.from_bytes(data[:2], "little") % 4096)
    opened(**{SINGLE: len(header).to_bytes(8, "little") + header + payload})


def single(data: bytes) -> None:
    end = 2 + int.from_bytes(data[:2], "little")
    content = sealed(data[2:end]) + data[end:]
    opened(**{SINGLE: header_bytes([(ALL, "U8", (len(content),), len(content))]) + content})


def compactly(data: bytes) -> None:
    """The compact form of the single layout."""
    content = COMPACT + data
    content += checksum(content)
    opened(**{SINGLE: header_bytes([(ALL, "U8", (len(content),), len(content))]) + content})


def index(data: bytes) -> None:
    shard = header_bytes([("w", "U8", (0,), 0)], {"rarefy": "1"})
    opened(**{INDEX: data, "a.safetensors": shard, "b.safetensors": shard})


def listed(data: bytes) -> None:
    """A manifest, its digest put right where it is a table at all."""
    content = strict_json(data, "the input")
    if isinstance(content, dict):
        content.pop("digest", None)
        try:
            data = canonical_json({**content, "digest": manifest._digest(content)})
        except ValueError:
            raise FormatError("not canonical") from None
    for old in FOLDER.iterdir():
        old.unlink()
    (FOLDER / manifest.FILE).write_bytes(data)
    manifest.read(FOLDER)
    manifest.verify(FOLDER)


def rans_table(data: bytes) -> None:
    freqs, k, lanes = table.read_table(data)
    again = table.read_table(table.write_table(freqs, k, lanes))
    assert np.array_equal(again.freqs, freqs)
    assert again[1:] == (k, lanes)


def huffman_lengths(data: bytes) -> None:
    lengths = huffman.read_lengths(data)
    assert np.array_equal(huffman.read_lengths(huffman.write_lengths(lengths)), lengths)


def context_shape(data: bytes) -> None:
    assert context.write_shape(context.read_shape(data)) == data


TARGETS: tuple[Callable[[bytes], None], ...] = (
    *(head, whole_record, restored, names, varints, safetensors_header, file, header_of_spread, single, index),
    *(listed, rans_table, huffman_lengths, context_shape, compactly),
)


def one(data: bytes) -> None:
    """Try one input. Raises whatever is not the answer of a reader."""
    if not data or data[0] >= len(TARGETS):
        return
    try:
        TARGETS[data[0]](data[1:])
    except RarefyError as error:
        if "\n" in str(error):
            raise ValueError("an error of several lines") from error


def kept(path: Path) -> list[bytes]:
    """The inputs of a kept corpus: one after the other, each after its length in two bytes."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:2], "little")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def seeds() -> list[bytes]:
    """Good inputs, so that a run does not begin with guessing what JSON is."""
    return _records() + [bytes([number]) + data for number, data in _others().items()]


def _codes() -> list[Code]:
    """One of every kind and some inside others."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 6)).astype(np.float32)
    scale = Dense.of(np.ones((4, 2)), "F16")
    grid = Grid(rng.integers(0, 16, (4, 6), np.uint8), scale, None, bits_per_symbol=4, group=3, shape=(4, 6))
    low = Factored(Dense.of(values[:, :1], "BF16"), Dense.of(values[:1], "BF16"), shape=(4, 6))
    q = rng.integers(-5, 6, (4, 6)).astype(np.int32)
    return [
        Dense.of(values, "F32"),
        Dense.of(np.zeros((40, 60), np.float32), "F32"),
        grid,
        Sparse(rng.random((4, 6)) < 0.5, grid),
        Difference.of(values, values + 1, dtype_of("F32"), 1),
        Codebook.of(np.rint(values), order=1),
        Separable(q, np.zeros(4, np.int16), np.arange(6, dtype=np.int16), shape=(4, 6)),
        low,
        Sum(grid, low),
        Scaled(Dense.of(np.ones(8), "BF16"), Codebook.of(np.rint(values), order=0), group=3),
        Transposed(grid),
    ]


def _records() -> list[bytes]:
    found = []
    for code in _codes():
        for coder in coders():
            data = record.encode(code, "F32", coder)
            start, size = Cursor(data, "the head"), record.head_size(data)
            length = start.varint()
            body = data[start.at : start.at + length]
            found += [b"\0" + body, b"\1" + length.to_bytes(2, "little") + body + data[size:], b"\2" + body]
        found.append(b"\x0e" + _compact([code, code]))
    return found


def _compact(codes: list[Code]) -> bytes:
    body = compact.write(record.encode(code, "F32") for code in codes)
    assert body is not None
    return varint(len(codes)) + write_names(f"layer{i}.weight" for i in range(len(codes))) + body


def _others() -> dict[int, bytes]:
    """By the number of the reader."""
    entries = varint(1 + 16 * 2) + write_names(["a.weight", "a.bias"]) + varint(0) + varint(0)
    header = header_bytes([("w", "U8", (3,), 3)], {"rarefy": "1"})
    listed = {"format": 1, "rarefy": "0", "files": {"a": {"bytes": 1, "sha256": "0" * 64}}}
    shards = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    return {
        3: bytes([2]) + write_names(["a.weight", "a.bias"]),
        4: varint(1 << 40),
        5: b"\3\0" + header[8:],
        6: header + b"abc",
        7: b"\3\0" + header[8:],
        8: len(entries).to_bytes(2, "little") + entries,
        9: json.dumps(shards).encode(),
        10: json.dumps(listed).encode(),
        11: table.write_table(np.full(4, 64, np.uint16), 8, 2),
        12: huffman.write_lengths(huffman.code_lengths(np.arange(256))),
        13: context.write_shape(context.Shape(4, 100)),
    }
