"""Manifests: what is written, and every bit of an artifact watched."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import golden
import numpy as np
import pytest

from rarefy.codes import Dense
from rarefy.errors import FormatError, UsageError
from rarefy.files import container, manifest, record

if TYPE_CHECKING:
    from pathlib import Path

TINY = {"a.weight": "sparse_sparse", "a.bias": "scalar"}


@pytest.fixture(params=["single", "spread", "shards"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    items = [(name, (golden.FOLDER / f"{code}.record").read_bytes()) for name, code in TINY.items()]
    layout = golden.ARTIFACTS[request.param]
    container.write(tmp_path, items, **({**layout, "shard_bytes": 10} if request.param == "shards" else layout))
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / "words.txt").write_text("ü")
    manifest.write(tmp_path, {"model": {"layers": 2}, "measured": {"kl": 0.1}})
    return tmp_path


def test_content(artifact: Path) -> None:
    content = manifest.read(artifact)
    assert content["format"] == 1
    assert content["model"] == {"layers": 2}
    digest = hashlib.sha256("ü".encode()).hexdigest()
    assert content["files"]["side/words.txt"] == {"bytes": 2, "sha256": digest}
    written = (artifact / "manifest.json").read_bytes()
    manifest.write(artifact, {"measured": {"kl": 0.1}, "model": {"layers": 2}})
    assert (artifact / "manifest.json").read_bytes() == written
    assert manifest.verify(artifact) == []


def test_sections_are_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files"):
        manifest.write(tmp_path, {"files": {}})
    with pytest.raises(ValueError, match="JSON"):
        manifest.write(tmp_path, {"measured": {"kl": float("nan")}})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_reported(artifact: Path) -> None:
    # All of them in the single layout; in the others, whose files are as long again, one in eleven.
    step = 1 if container.Reader(artifact).single else 11
    for path in sorted(p for p in artifact.rglob("*") if p.is_file()):
        name = path.relative_to(artifact).as_posix()
        data = path.read_bytes()
        for bit in range(0, 8 * len(data), step):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            damage = manifest.verify(artifact)
            assert [d.file for d in damage] == [name]
            if name.endswith(".safetensors"):
                assert damage[0].where is not None
        path.write_bytes(data)
    assert manifest.verify(artifact) == []


def test_damage_is_placed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 10**5)).astype(np.float32)
    container.write(tmp_path, [(n, record.encode(Dense.of(v), "F32")) for n, v in zip("ab", values, strict=True)])
    manifest.write(tmp_path, {})
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    damage = manifest.verify(tmp_path)
    assert damage == [
        manifest.Damage("model.safetensors", "its checksum is wrong", "b", "stream plane3, tile 1"),
    ]
    assert str(damage[0]) == "model.safetensors, b, stream plane3, tile 1: its checksum is wrong"
    (tmp_path / "manifest.json").write_text("{}")
    assert [(d.file, d.tensor) for d in manifest.verify(tmp_path)] == [
        ("manifest.json", None),
        ("model.safetensors", "b"),
    ]
    path.write_bytes(data[:50])
    assert manifest.verify(tmp_path)[1].where == "header"


def test_missing_and_unexpected_files(artifact: Path) -> None:
    (artifact / "side" / "words.txt").rename(artifact / "side" / "word.txt")
    assert list(map(str, manifest.verify(artifact))) == [
        "side/word.txt: is not in the manifest",
        "side/words.txt: is missing",
    ]
    (artifact / "manifest.json").unlink()
    with pytest.raises(UsageError, match="is not an artifact"):
        manifest.verify(artifact)


def test_forms_that_are_not_canonical_are_refused(artifact: Path) -> None:
    path = artifact / "manifest.json"
    content = json.loads(path.read_text())
    for text in (json.dumps(content), path.read_text() + "\n", path.read_text()[:-1], path.read_text()[:-9], "[]"):
        path.write_text(text)
        with pytest.raises(FormatError):
            manifest.read(artifact)
    path.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(FormatError, match="newer"):
        manifest.read(artifact)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a\\b", ""])
def test_paths_outside_are_refused(tmp_path: Path, name: str) -> None:
    manifest.write(tmp_path, {})
    content = manifest.read(tmp_path)
    content["files"] = {name: {"bytes": 0, "sha256": ""}}
    content.pop("digest")
    content["digest"] = manifest._digest(content)
    manifest.write_json(tmp_path / "manifest.json", content)
    with pytest.raises(FormatError, match="refused"):
        manifest.read(tmp_path)
