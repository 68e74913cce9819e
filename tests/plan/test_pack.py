"""Packed checkpoints come back byte for byte, whatever is in them, and never from a wrong base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rarefy.codes.dtypes import DTYPES
from rarefy.errors import FormatError, ResourceError, UsageError
from rarefy.files import manifest
from rarefy.files.atomic import canonical_json
from rarefy.files.container import Reader
from rarefy.files.safetensors import Payload, header_bytes, write
from rarefy.files.windows import WINDOW
from rarefy.plan.checkpoint import Checkpoint, digest
from rarefy.plan.pack import pack
from rarefy.plan.unpack import is_packed, unpack

RNG = np.random.default_rng(0)


def payload(dtype: str, shape: tuple[int, ...], data: bytes) -> Payload:
    return Payload(dtype, shape, len(data), [data])


def tensors(seed: int = 0, moved: float = 0.0) -> dict[str, Payload]:
    """Weights of several windows in three types, half of one rounded to another type; `moved`: by how much they differ
    from those of the same seed."""
    rng, made = np.random.default_rng(seed), {}
    shift = np.random.default_rng(seed + 1)
    for name, shape in {"big": (700, 513), "small": (30, 40), "vector": (7,)}.items():
        values = rng.normal(0, 0.02, shape).astype(np.float32)
        values[: shape[0] // 2].view(np.uint32)[...] &= 0xFFFFE000
        values += (moved * shift.normal(size=shape)).astype(np.float32)
        made[f"{name}.f32"] = payload("F32", shape, values.tobytes())
        made[f"{name}.bf16"] = payload("BF16", shape, (values.view("<u4") >> 16).astype("<u2").tobytes())
        made[f"{name}.f16"] = payload("F16", shape, values.astype("<f2").tobytes())
    return made


def every_type() -> dict[str, Payload]:
    """Any bits in every type, known to Rarefy or not, NaN payloads and negative zeros among them; and odd shapes."""
    made = {}
    for name, dtype in DTYPES.items():
        data = RNG.integers(0, 256, 600 * dtype.size).astype(np.uint8)
        data[: dtype.size] = [*[0] * (dtype.size - 1), 0x80]
        data[dtype.size : 2 * dtype.size] = 0xFF
        made[name] = payload(name, (20, 30), data.tobytes())
    made["scalar"] = payload("F32", (), b"\0\0\0\x80")
    made["nothing"] = payload("BF16", (3, 0, 2), b"")
    made["exponents only"] = payload("F8_E8M0", (5,), bytes(range(5)))
    made["zeros"] = payload("F32", (1000, 1000), bytes(4_000_000))
    made["zeros again"] = payload("F32", (1000, 1000), bytes(4_000_000))
    made["rarefy"] = payload("I8", (2,), b"ab")
    return made


def checkpoint(folder: Path, made: dict[str, Payload], shards: int = 0, config: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    names = list(made)
    if not shards:
        write(folder / "model.safetensors", made.items(), {"format": "pt", "odd": "Zoë"})
    else:
        placed = {}
        for i in range(shards):
            file = f"part-{i}.safetensors"
            write(folder / file, [(n, made[n]) for n in names[i::shards]])
            placed |= dict.fromkeys(names[i::shards], file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("side file")
    (folder / "old.bin").write_bytes(b"not ours")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def there_and_back(source: Path, work: Path, **options: object) -> None:
    pack(source, work / "out", **options)
    assert manifest.verify(work / "out") == []
    assert is_packed(work / "out")
    unpack(work / "out", work / "back", **options)
    assert contents(work / "back") == contents(source)


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("config", [None, {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}])
def test_every_type_comes_back_byte_for_byte(tmp_path: Path, shards: int, config: dict | None) -> None:
    there_and_back(checkpoint(tmp_path / "in", every_type(), shards, config), tmp_path)


def test_windows_and_threads(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", tensors())
    assert WINDOW < 700 * 513
    made = pack(source, tmp_path / "one", threads=1)
    pack(source, tmp_path / "two", threads=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert made.bytes < 0.75 * made.original
    for threads in (1, 2):
        unpack(tmp_path / "one", tmp_path / f"back{threads}", threads=threads)
        assert contents(tmp_path / f"back{threads}") == contents(source)


def test_one_file_and_several_without_index(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", tensors())
    (source / "model.safetensors").rename(source / "adapter.safetensors")
    pack(source / "adapter.safetensors", tmp_path / "one")
    unpack(tmp_path / "one", tmp_path / "alone")
    assert contents(tmp_path / "alone") == {"adapter.safetensors": (source / "adapter.safetensors").read_bytes()}
    write(source / "more.safetensors", {"another": payload("U8", (1,), b"x")}.items())
    there_and_back(source, tmp_path)
    shutil.copy(source / "more.safetensors", source / "most.safetensors")
    with pytest.raises(FormatError, match="both hold a tensor 'another'"):
        pack(source, tmp_path / "clash")


def test_opens_as_a_network(tmp_path: Path) -> None:
    """from_pretrained and rarefy.open give the very weights, without being told their type."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    import rarefy

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    network = LlamaForCausalLM(config).to(torch.bfloat16)
    network.save_pretrained(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in network.state_dict().items():
        assert torch.equal(opened.state_dict()[name].view(torch.int16), tensor.view(torch.int16)), name
    assert rarefy.open(tmp_path / "out").weights == sum(p.numel() for p in network.parameters())


def test_differences(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", tensors())
    near = checkpoint(tmp_path / "near", tensors(moved=1e-6))
    plain = pack(near, tmp_path / "plain").bytes
    made = pack(near, tmp_path / "packed", base=base)
    assert made.bytes < 0.6 * plain
    assert made.differences > 0
    # The base may lie elsewhere, saved another way.
    moved = checkpoint(tmp_path / "moved", dict(sorted(tensors().items())), shards=2)
    for threads, where in ((1, base), (2, moved)):
        unpack(tmp_path / "packed", tmp_path / f"back{threads}", base=where, threads=threads)
        assert contents(tmp_path / f"back{threads}") == contents(near)


def test_archives_are_smaller_and_say_their_time(tmp_path: Path) -> None:
    """Rows of growing magnitude, which tables cannot follow and contexts do."""
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(900, 400)) * np.exp(rng.normal(size=(900, 1)))).astype(np.float32)
    source = checkpoint(tmp_path / "in", {"rows": payload("F32", values.shape, values.tobytes())} | every_type())
    moved = values + 1e-6 * rng.normal(size=values.shape).astype(np.float32)
    tuned = checkpoint(tmp_path / "tuned", {"rows": payload("F32", values.shape, moved.astype("<f4").tobytes())})
    for checked, base in ((source, None), (tuned, source)):
        plain = pack(checked, tmp_path / f"plain-{checked.name}", base=base)
        made = pack(checked, tmp_path / f"archive-{checked.name}", base=base, archive=True, threads=2)
        assert made.bytes < 0.995 * plain.bytes
        assert plain.decode_seconds is None
        assert made.decode_seconds > 0
        assert "context" in Reader(made.out).head("rows").coder_names()
        unpack(made.out, tmp_path / f"back-{checked.name}", base=base)
        assert contents(tmp_path / f"back-{checked.name}") == contents(checked)


def test_the_same_costs_nothing_and_a_stranger_no_more(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", every_type() | tensors())
    same = pack(base, tmp_path / "same", base=base)
    assert same.bytes < 0.001 * same.original + 5000  # of which most is names and heads
    unpack(tmp_path / "same", tmp_path / "back", base=base)
    assert contents(tmp_path / "back") == contents(base)
    stranger = checkpoint(tmp_path / "stranger", tensors(seed=7))
    plain = pack(stranger, tmp_path / "plain")
    against = pack(stranger, tmp_path / "against", base=base)
    assert against.bytes <= plain.bytes
    if not against.differences:
        unpack(tmp_path / "against", tmp_path / "alone")


def test_a_wrong_base_is_refused(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", tensors())
    near = checkpoint(tmp_path / "near", tensors(moved=1e-6), config={"architectures": ["LlamaForCausalLM"]})
    pack(near, tmp_path / "packed", base=base)
    with pytest.raises(UsageError, match="differences from another checkpoint.*--base DIR0"):
        unpack(tmp_path / "packed", tmp_path / "back")
    with pytest.raises(UsageError, match="not the checkpoint that .* was packed against.*digest"):
        unpack(tmp_path / "packed", tmp_path / "back", base=near)
    small = checkpoint(tmp_path / "small", {"other": payload("U8", (1,), b"x")})
    with pytest.raises(UsageError, match="not the checkpoint"):
        unpack(tmp_path / "packed", tmp_path / "back", base=small)
    pack(base, tmp_path / "plain")
    with pytest.raises(UsageError, match="without a base"):
        unpack(tmp_path / "plain", tmp_path / "back", base=base)
    assert not (tmp_path / "back").exists()


def test_differences_alone_do_not_open(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    import rarefy

    network = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                           num_attention_heads=2, num_key_value_heads=1))  # fmt: skip
    network.save_pretrained(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "out", base=tmp_path / "in")
    with pytest.raises(UsageError, match="differences from another checkpoint.*rarefy unpack"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with pytest.raises(UsageError, match="difference from another checkpoint.*rarefy unpack"):
        rarefy.open(tmp_path / "out").module()


def test_a_config_of_another_quantizer_is_kept(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}
    source = checkpoint(tmp_path / "in", tensors(), config=config)
    there_and_back(source, tmp_path)
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "rarefy"
    assert "fp8" in told["unpack_first"]


def test_digest_is_of_tensors_alone(tmp_path: Path) -> None:
    made = tensors()
    one, two = checkpoint(tmp_path / "one", made), checkpoint(tmp_path / "two", dict(sorted(made.items())), shards=2)
    assert digest(Checkpoint(one), made, 1) == digest(Checkpoint(two), made, 2)
    assert digest(Checkpoint(one), [*made, "missing"], 1) is None


def test_refusals(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", tensors())
    pack(source, tmp_path / "out")
    for again in (tmp_path / "out", tmp_path):
        with pytest.raises(UsageError, match="exists"):
            pack(source, again)
    with pytest.raises(UsageError, match="lies inside"):
        pack(source, source / "out")
    with pytest.raises(UsageError, match="is an artifact"):
        pack(tmp_path / "out", tmp_path / "twice")
    with pytest.raises(UsageError, match="does not exist"):
        pack(tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(UsageError, match="has no safetensors"):
        pack(source / "sub", tmp_path / "x")
    (source / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"manifest\.json would be overwritten"):
        pack(source, tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_nothing_is_left_of_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "in", tensors())

    def full(*_: object) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr("rarefy.plan.pack.manifest.write", full)
    with pytest.raises(ResourceError):
        pack(source, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_damage_is_named(tmp_path: Path) -> None:
    pack(checkpoint(tmp_path / "in", tensors()), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    place = Reader(file).files.entries["big.f32"]
    data = bytearray(file.read_bytes())
    data[place.start + place.size // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"big\.f32 .* stream plane\d, tile \d+ is damaged"):
        unpack(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    pack(tmp_path / "in", tmp_path / "out2")
    (tmp_path / "out2" / "old.bin").write_bytes(b"replaced")
    with pytest.raises(FormatError, match=r"old\.bin is damaged"):
        unpack(tmp_path / "out2", tmp_path / "back")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s["packed"]["files"].update({"../x.safetensors": "{}"}), "malformed"),
        (lambda s: s["packed"]["texts"].update({"../../x": "{}"}), "malformed"),
        (lambda s: s["packed"].update(files=[]), "malformed"),
        (lambda s: s["packed"]["files"].clear(), "other tensors"),
        (lambda s: s["packed"].update(base=5), "malformed"),
        (lambda s: s["packed"]["files"].update({"model.safetensors": '{"a": 1}'}), "not"),
        (lambda s: s["packed"]["files"].update({"model.safetensors": "[]"}), "not a table"),
        (
            lambda s: s["packed"]["files"].update(
                {"model.safetensors": header_bytes([("big.f32", "F32", (9,), 36)])[8:].decode()}
            ),
            "tensors have 36 bytes",
        ),
    ],
)
def test_hostile_manifests(tmp_path: Path, change: object, match: str) -> None:
    pack(checkpoint(tmp_path / "in", tensors()), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("digest")
    content["digest"] = manifest._digest(content)
    path.write_bytes(canonical_json(content))
    with pytest.raises(FormatError, match=match):
        unpack(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_command_line(tmp_path: Path) -> None:
    from rarefy.cli.app import app

    base, near = checkpoint(tmp_path / "base", tensors()), checkpoint(tmp_path / "near", tensors(moved=1e-6))
    run = CliRunner()
    found = run.invoke(app, ["pack", str(near), str(tmp_path / "out"), "--base", str(base), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["differences"] > 0
    assert run.invoke(app, ["unpack", str(tmp_path / "out"), str(tmp_path / "back")]).exit_code == 2
    found = run.invoke(app, ["unpack", str(tmp_path / "out"), str(tmp_path / "back"), "--base", str(base)])
    assert found.exit_code == 0, found.output
    assert contents(tmp_path / "back") == contents(near)
    found = run.invoke(app, ["pack", str(near), str(tmp_path / "archive"), "--archive"])
    assert "restored in" in found.stderr
