"""safetensors in and out: every type, shards, and files that lie."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from rarefy.codes.dtypes import DTYPES
from rarefy.errors import FormatError, UsageError
from rarefy.files.directory import TensorDirectory
from rarefy.files.safetensors import Payload, TensorFile, chunks_of, header_bytes, parse_header, write

if TYPE_CHECKING:
    from pathlib import Path

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 5), np.float16),
    "flags": np.array([True, False]),
    "Größe": np.array([1, 255], np.uint8),
}


def one(header: Any, payload: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + payload


def entry(dtype: Any = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "model.safetensors", {"format": "pt"})
    files = TensorDirectory(tmp_path)
    assert files.metadata == {"format": "pt"}
    assert files.size == (tmp_path / "model.safetensors").stat().st_size
    for name, array in ARRAYS.items():
        raw = files.raw(name)
        assert raw.dtype == array.dtype
        np.testing.assert_array_equal(raw, array)
        np.testing.assert_array_equal(files.codes()[name].decode(), array.astype(np.float32))
    assert files.read_bytes("matrix", 4, 8) == ARRAYS["matrix"].tobytes()[4:12]
    assert files.read_bytes("matrix", 40, 100) == ARRAYS["matrix"].tobytes()[40:]
    files.close()
    files.close()


def test_the_package_reads_what_is_written(tmp_path: Path) -> None:
    names = {array.raw: name for name, array in reversed(DTYPES.items()) if name not in ("BF16", "F8_E4M3", "F8_E5M2")}
    entries = [(n, Payload(names[a.dtype], a.shape, a.nbytes, chunks_of(a, 5))) for n, a in ARRAYS.items()]
    write(tmp_path / "x.safetensors", entries, {"a": "b"})
    back = load_file(tmp_path / "x.safetensors")
    assert set(back) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
    with pytest.raises(ValueError, match="came as 2 bytes, not 3"):
        write(tmp_path / "x.safetensors", [("a", Payload("U8", (3,), 3, [b"ab"]))])
    with pytest.raises(ValueError, match="twice"):
        header_bytes([("a", "U8", (1,), 1)] * 2)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert set(load_file(tmp_path / "x.safetensors")) == set(ARRAYS)


def test_tensors_load_when_wanted(tmp_path: Path) -> None:
    save_file({"a": np.zeros(10**6, np.float32)}, tmp_path / "model.safetensors")
    tracemalloc.start()
    code = TensorDirectory(tmp_path).codes()["a"]
    assert tracemalloc.get_traced_memory()[1] < 10**5
    tracemalloc.stop()
    assert code.decode().size == 10**6


def test_unknown_element_types_matter_only_when_read(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(one({"a": entry("F4", (4,)), "b": entry(offsets=(2, 4))}, b"abcd"))
    files = TensorDirectory(tmp_path)
    assert files.raw("b").tolist() == [99, 100]
    with pytest.raises(FormatError, match="F4 is not supported"):
        files.raw("a")


BAD = {
    "empty file": b"",
    "no header": b"\x02\0\0\0\0\0\0\0",
    "length beyond the file": one({}, size=1000),
    "gigantic length": one({}, size=2**63),
    "not JSON": one(b"{'a': 1}"),
    "not UTF-8": one(b'{"\xff": 1}'),
    "not a table": one([1]),
    "deeply nested": one(b"[" * 100_000),
    "long integer": one(b'{"a":' + b"9" * 10_000 + b"}"),
    "duplicate name": one(b'{"a":{},"a":{}}'),
    "not a number": one(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "metadata of numbers": one({"__metadata__": {"a": 1}}),
    "metadata as text": one({"__metadata__": "a"}),
    "entry as text": one({"a": "b"}),
    "entry without shape": one({"a": {"dtype": "U8", "data_offsets": [0, 2]}}, b"ab"),
    "dtype as number": one({"a": entry(dtype=1)}, b"ab"),
    "shape as number": one({"a": entry(shape=2)}, b"ab"),
    "negative shape": one({"a": entry(shape=(-1, -2))}, b"ab"),
    "shape of truths": one({"a": entry(shape=(True, 2))}, b"ab"),
    "shape of fractions": one({"a": entry(shape=(2.0,))}, b"ab"),
    "enormous shape": one({"a": entry(shape=(2**61, 2**61, 0), offsets=(0, 0))}),
    "endless shape": one({"a": entry(shape=[1] * 1000 + [2])}, b"ab"),
    "one offset": one({"a": entry(offsets=(0,))}, b"ab"),
    "offsets backwards": one({"a": entry(offsets=(2, 0))}, b"ab"),
    "size is not shape times type": one({"a": entry("F32")}, b"ab"),
    "offsets beyond the file": one({"a": entry(shape=(3,), offsets=(0, 3))}, b"ab"),
    "overlap": one({"a": entry(), "b": entry(offsets=(1, 3))}, b"abc"),
    "same place": one({"a": entry(), "b": entry()}, b"ab"),
    "gap": one({"a": entry(), "b": entry(offsets=(3, 5))}, b"abcde"),
    "bytes left over": one({"a": entry()}, b"abc"),
    "surrogate in a name": one(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("name", BAD)
def test_liars_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(BAD[name])
    with pytest.raises(FormatError, match="is not a safetensors file") as raised:
        TensorDirectory(tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


GOOD = one({"__metadata__": {"a": "b"}, "x": entry("F32", (1, 2), (0, 8)), "y": entry(offsets=(8, 10))}, b"0123456789")


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_headers_raise_format_errors_only(edits: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in edits:
        data[at] = value
    size = int.from_bytes(data[:8], "little")
    if size > len(data) - 8:
        return
    try:
        entries, _ = parse_header(bytes(data[8 : 8 + size]), len(data) - 8 - size)
    except FormatError:
        return
    assert sum(e.size for e in entries.values()) == len(data) - 8 - size


def test_truncated_later(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    file = TensorFile(path)
    path.write_bytes(GOOD[:-4])
    with pytest.raises(FormatError, match="ends early"):
        file.raw("y")


def index(folder: Path, weights: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def test_shards(tmp_path: Path) -> None:
    index(tmp_path, {"x": "b.safetensors", "z": "a.safetensors", "y": "b.safetensors"})
    (tmp_path / "b.safetensors").write_bytes(GOOD)
    with pytest.raises(FormatError, match=r"lacks its shard a\.safetensors"):
        TensorDirectory(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    with pytest.raises(FormatError, match=r"a\.safetensors has no tensor 'z'"):
        TensorDirectory(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(one({"z": entry()}, b"ab"))
    files = TensorDirectory(tmp_path)
    assert sorted(files.entries) == ["x", "y", "z"]
    assert files.raw("z").tolist() == [97, 98]
    assert files.file("z").path == tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    "shard",
    [
        *("../a.safetensors", "/a.safetensors", "x/a.safetensors", "a.bin", "..", "", "C:a.safetensors"),
        *("a\n.safetensors", "ä" * 122 + ".safetensors"),  # the last has 256 bytes
    ],
)
def test_path_tricks_are_refused(shard: str, tmp_path: Path) -> None:
    index(tmp_path, {"x": shard})
    with pytest.raises(FormatError, match="not a file beside it"):
        TensorDirectory(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', '{"a":1,"a":2}'])
def test_malformed_indexes_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FormatError, match=r"index\.json"):
        TensorDirectory(tmp_path)


def test_which_file(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "no safetensors files"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(UsageError, match=why):
            TensorDirectory(path)
    (tmp_path / "adapter.safetensors").write_bytes(GOOD)
    assert set(TensorDirectory(tmp_path).entries) == {"x", "y"}
    assert set(TensorDirectory(tmp_path / "adapter.safetensors").entries) == {"x", "y"}
    (tmp_path / "other.safetensors").write_bytes(GOOD)
    with pytest.raises(UsageError, match="2 safetensors files"):
        TensorDirectory(tmp_path)
    with pytest.raises(UsageError, match="cannot open"):
        TensorFile(tmp_path / "gone")
