"""The two layouts, their sizes, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import golden
import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from rarefy.codes import Dense, Grid
from rarefy.errors import FormatError, ResourceError
from rarefy.files import container, record
from rarefy.files.container import Reader
from rarefy.files.names import read_names, write_names
from rarefy.files.safetensors import Payload
from rarefy.files.safetensors import write as write_tensors
from rarefy.files.varint import Cursor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rarefy.codes import Code

FILES = {
    "compact": ("model.safetensors",),
    "single": ("model.safetensors",),
    "spread": ("model.safetensors",),
    "shards": (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ),
}


@pytest.mark.parametrize("name", sorted(golden.ARTIFACTS))
def test_golden_artifacts_open_and_are_still_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "single":  # what is written where a record has no compact form
        monkeypatch.setattr(container, "_compact", lambda _: None)
    assert container.write(tmp_path, golden.items(), **golden.ARTIFACTS[name]) == FILES[name]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES[name])
    for file in FILES[name]:
        assert (tmp_path / file).read_bytes() == (golden.FOLDER / name / file).read_bytes()
    reader = Reader(golden.FOLDER / name)
    assert {n: reader.record(n) for n in reader.names()} == dict(golden.items())
    assert reader.single == (name in ("single", "compact"))
    assert reader.size == sum(p.stat().st_size for p in tmp_path.glob("*.safetensors"))
    for parameter, code in golden.PARAMETERS.items():
        values, dtype = reader.code(parameter)
        np.testing.assert_array_equal(values.decode(), golden.CODES[code]()[0].decode())
        assert reader.head(parameter).dtype == dtype
        extra = reader.head(parameter).total - reader.sizes[parameter]
        assert extra >= 3 if name == "compact" else extra == 0
    reader.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(max_size=12), strategies.codes(), max_size=5),
    st.integers(0, 1000),
    st.sampled_from([0, 64_000]),
)
def test_any_names_and_codes(tmp_path: Path, codes: dict, shard_bytes: int, single_bytes: int) -> None:
    items = [(f"p{name}", record.encode(code, "F32")) for name, code in codes.items()]
    for path in tmp_path.iterdir():
        path.unlink()
    container.write(tmp_path, items, shard_bytes=shard_bytes, single_bytes=single_bytes)
    reader = Reader(tmp_path)
    assert {name: reader.record(name) for name in reader.names()} == dict(items)
    reader.close()


def test_records_in_files(tmp_path: Path) -> None:
    paths = []
    for i, (name, data) in enumerate(golden.items()):
        (tmp_path / f"{i}.record").write_bytes(data)
        paths.append((name, tmp_path / f"{i}.record"))
    for name, sizes in golden.ARTIFACTS.items():
        if name == "single":
            continue
        (tmp_path / name).mkdir()
        container.write(tmp_path / name, iter(paths), **sizes)
        for file in FILES[name]:
            assert (tmp_path / name / file).read_bytes() == (golden.FOLDER / name / file).read_bytes()
    with pytest.raises(ResourceError, match=r"cannot read .*gone"):
        container.write(tmp_path, [("a", tmp_path / "gone")])


def test_layout_is_chosen_by_size(tmp_path: Path) -> None:
    for size, single in ((15_000, True), (17_000, False)):
        data = record.encode(Dense.of(np.random.default_rng(0).random(size).astype(np.float32)), "F32", "raw")
        container.write(tmp_path, [("a", data)])
        assert Reader(tmp_path).single == single


def test_parameter_called_rarefy(tmp_path: Path) -> None:
    items = [("rarefy", golden.items()[0][1])]
    container.write(tmp_path, items, single_bytes=0)
    assert Reader(tmp_path).names() == ("rarefy",)
    assert Reader(tmp_path).record("rarefy") == items[0][1]


def test_same_name_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        container.write(tmp_path, [("a", b"x"), ("a", b"y")])
    assert list(tmp_path.iterdir()) == []


def test_others_read_the_spread_layout() -> None:
    with safe_open(golden.FOLDER / "spread" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "rarefy": "1"}
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == dict(golden.items())  # noqa: SIM118


FIVE = {"fc1.weight": (20, 10), "fc1.bias": (20,), "fc2.weight": (20, 20), "fc2.bias": (20,), "fc3.weight": (5, 20)}


def five(matrix: Callable[[tuple[int, ...], int], Code]) -> list[tuple[str, Code]]:
    """A network of five tensors, from integers alone."""
    vectors = {name: Dense.of(golden.real(shape, 1 + i), "BF16") for i, (name, shape) in enumerate(FIVE.items())}
    return [(n, vectors[n] if len(s) == 1 else matrix(s, 1 + i)) for i, (n, s) in enumerate(FIVE.items())]


def four_bits(shape: tuple[int, ...], seed: int) -> Grid:
    q = np.clip(golden.numbers(shape[0] * shape[1], seed) // 9 + 8, 0, 15).astype(np.uint8).reshape(shape)
    return Grid(q, Dense.of(np.array([[0.5]]), "BF16"), None, bits_per_symbol=4, group=shape[1], shape=shape)


@pytest.mark.parametrize(
    ("matrix", "coder", "size", "beside"),
    [
        (lambda shape, seed: Dense.of(golden.real(shape, seed), "BF16"), "raw", 1598, 118),
        (four_bits, None, 495, 143),
        (four_bits, "archive", 493, 163),
    ],
)
def test_overhead_of_a_five_tensor_network(
    matrix: Callable[[tuple[int, ...], int], Code], coder: str | None, size: int, beside: int, tmp_path: Path
) -> None:
    """Exact bytes of the whole file, and of all in it but coded symbols: header, names, heads, models, checksums."""
    container.write(tmp_path, [(name, record.encode(code, "F32", coder)) for name, code in five(matrix)])
    reader = Reader(tmp_path)
    payload = sum(stream.coded for name in reader.names() for stream in reader.head(name).streams)
    assert (reader.size, reader.size - payload) == (size, beside)


def test_other_peoples_files_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", [("a", Payload("F32", (1,), 4, [b"1234"]))], {"format": "pt"})
    assert not container.holds_records(tmp_path)
    with pytest.raises(FormatError, match="'a' is not a record"):
        Reader(tmp_path)
    write_tensors(tmp_path / "model.safetensors", [("a", Payload("U8", (4,), 4, [b"1234"]))])
    with pytest.raises(FormatError, match="metadata do not say rarefy"):
        Reader(tmp_path)
    write_tensors(tmp_path / "model.safetensors", [("a", Payload("U8", (4,), 4, [b"1234"]))], {"rarefy": "2"})
    with pytest.raises(FormatError, match="newer"):
        Reader(tmp_path)
    write_tensors(tmp_path / "model.safetensors", [("a", Payload("U8", (4,), 4, [b"1234"]))], {"rarefy": "1"})
    with pytest.raises(FormatError, match="a in .* is damaged"):
        Reader(tmp_path).code("a")
    for name in golden.ARTIFACTS:
        assert container.holds_records(golden.FOLDER / name)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
def test_mutated_tables_raise_format_errors_only(tmp_path: Path, edits: list[tuple[int, int]], mend: bool) -> None:
    from rarefy.files.head import checksum

    data = bytearray(b"".join(container._single([(n, container._Part.of(d)) for n, d in golden.items()]).chunks))
    end = data[0] + 1
    for at, value in edits:
        data[1 + at % (end - 1)] = value
    if mend:
        data[end : end + 2] = checksum(bytes(data[:end]))
    write_tensors(tmp_path / "model.safetensors", [("rarefy", Payload("U8", (len(data),), len(data), [bytes(data)]))])
    try:
        reader = Reader(tmp_path)
        for name in reader.names():
            record.check(reader.record(name))
    except FormatError as error:
        assert "\n" not in str(error)


@given(st.lists(st.text(), unique=True))
def test_names(names: list[str]) -> None:
    cursor = Cursor(write_names(names), "it")
    assert read_names(cursor, len(names)) == names
    assert cursor.left == 0


def test_common_names_are_short() -> None:
    names = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(30) for p in "qkvo"]
    assert len(write_names(names)) < 16 * len(names)
    for data in (b"\x01\x08a", b"\x00\x08\xff", b"\x00\x08a\x01\x00", b"\x00\xff\xff\x7fa"):
        with pytest.raises(FormatError):
            read_names(Cursor(data, "it"), 2 if len(data) == 5 else 1)
    with pytest.raises(FormatError, match="ends early"):
        read_names(Cursor(b"ab", "it"), 10**9)


def test_index_is_json(tmp_path: Path) -> None:
    container.write(tmp_path, golden.items(), single_bytes=0, shard_bytes=1)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(data) for _, data in golden.items())
    assert list(index["weight_map"]) == sorted(golden.PARAMETERS)
