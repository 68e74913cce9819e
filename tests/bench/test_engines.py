"""The bench of engines, with tiny networks and commands of a moment: what is made once, left out, or measured again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import LlamaForCausalLM

import engines
from rarefy.measure.speed import Race, Speed
from rarefy.units import Interval


@pytest.fixture
def run(tmp_path: Path) -> engines.Run:
    (tmp_path / "work").mkdir()
    return engines.Run(tmp_path / "work", tmp_path, repeat=6, threads=1)


def test_what_is_made_is_made_once_and_what_fails_is_named(run: engines.Run) -> None:
    target = run.work / "made"
    assert run.made(target, ["mkdir", str(target)]) == target
    assert run.made(target, ["false"]) == target
    words = [sys.executable, "-c", "import sys; print('noise', file=sys.stderr); sys.exit('no disk')"]
    assert run.made(run.work / "other", words) is None
    assert run.missing == {"other": "no disk"}
    assert run.rarefy("net", "export", run.work / "nothing", "--to", "safetensors") is None
    assert run.missing["net"].startswith("error: ")
    assert run.export("of nothing", None, "gguf") is None
    assert run.quantized("q4_0", None) is None
    assert "--python" in run.missing["llama.cpp-q4_0.gguf"]


def test_networks_without_an_engine_are_left_out(
    run: engines.Run, llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.save_pretrained(tmp_path / "model")
    ran: list[str] = []

    def race(contenders: list, asked: object, pythons: object) -> Race:
        ran.extend(each.engine for each in contenders)
        one = Interval(1.0, 1.0, 1.0)
        return Race(
            tuple(Speed(c, "tokens", "", 1, 2, 3, {"generation": one}, {"generation": one}, one) for c in contenders),
            one,
        )

    monkeypatch.setattr(engines, "race", race)
    names = {
        "dense": tmp_path / "model",
        "packed": f"{tmp_path / 'model'}@packed",
        "gguf": tmp_path / "gone",
        "onnx": None,
    }
    found = run.race(names, prompt=8)
    assert ran == ["transformers", "packed"]
    assert list(found["networks"]) == ["dense", "packed"]
    assert found["networks"]["packed"]["name"] == "packed"  # no path of this machine
    assert list(run.missing) == ["gguf"]
    assert engines._over(found, "packed", "generation", 1.0)
    assert not engines._over(found, "packed", "generation", 1.1)
    assert not engines._over(found, "gguf", "generation", 0.0)


def test_a_part_that_is_there_is_measured_again_only_by_name(run: engines.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def part(name: str):
        def measure(run: engines.Run) -> dict:
            calls.append(name)
            run.missing[f"of {name}"] = "why"
            return {"figure": len(calls)}

        return measure

    monkeypatch.setattr(engines, "PARTS", {name: part(name) for name in "ab"})
    *_, report = engines.measured(run, {}, [])
    assert calls == ["a", "b"]
    assert report["parts"]["b"]["missing"] == {"of b": "why"}
    assert list(engines.measured(run, report, [])) == []
    (again,) = engines.measured(run, report, ["a"])
    assert calls == ["a", "b", "a"]
    assert (again["parts"]["a"]["figure"], again["parts"]["b"]["figure"]) == (3, 2)


@pytest.mark.parametrize("slowness", [1.0, 8.0])
def test_loading_alternates_with_cold_files(
    slowness: float, run: engines.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, artifact = tmp_path / "dense", run.work / "artifact"
    for folder, size in ((dense, 300), (artifact, 100)):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(size))
    log: list[tuple[str, str]] = []
    took = {"dense from_pretrained": 4.0, "from_pretrained": slowness, "packed from_pretrained": 1.0}

    def fresh(way: str, path: Path, cores: int) -> dict[str, float]:
        log.append((way, path.name))
        return {"seconds": took[way] * len(log)}

    monkeypatch.setattr(engines, "fresh", fresh)
    monkeypatch.setattr(engines, "forget", lambda path: log.append(("forget", path.name)))
    monkeypatch.setattr(engines, "networks", SimpleNamespace(smollm2=lambda *_: dense))
    found = engines.loading(run)
    lap = [
        ("forget", "dense"),
        ("dense from_pretrained", "dense"),
        ("forget", "artifact"),
        ("from_pretrained", "artifact"),
        ("forget", "artifact"),
        ("packed from_pretrained", "artifact"),
        ("forget", "dense"),
    ]
    assert log == lap * 6
    ratios = [slowness * (7 * i + 4) / (4 * (7 * i + 2)) for i in range(6)]
    assert found["over dense"]["artifact"]["value"] == pytest.approx(sum(sorted(ratios)[2:4]) / 2)
    assert found["over dense"]["artifact, packed"]["value"] < 1
    assert found["reached"] == {"loading: no slower than dense": slowness < 4}
    taken = [found["seconds"][name]["value"] for name in ("artifact", "dense")]
    if slowness < 3:
        assert found["alike at"] is None
    else:  # so many more bytes take so much longer
        assert 200 / found["alike at"] == pytest.approx(taken[0] - taken[1] + 200 / found["bytes a second"]["value"])


def test_forgetting_leaves_files_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    engines.forget(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"weights"
