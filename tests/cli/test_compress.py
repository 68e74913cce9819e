"""`rarefy compress`: its answer, its refusals, and that it can be said again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli.command import rarefy

GPTQ = ("-m", "quantize.gptq:bits=4,group=16")


def test_json_says_what_was_made(llama: Path, tmp_path: Path) -> None:
    said = rarefy("compress", llama, tmp_path / "out", "-m", "quantize.rtn:bits=4,group=16", "--json")
    found = said.json()
    assert said.status == 0
    assert {"out", "bytes", "weights", "bpw", "seconds", "peak_rss_bytes", "steps"} <= set(found)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert found["bytes"] == size
    assert found["bpw"] == pytest.approx(8 * size / found["weights"])
    assert [step["method"] for step in found["steps"]] == ["quantize.rtn"]
    assert found["original"]["bytes"] == 4 * found["weights"]
    assert found["already"] is False


def test_table_names_what_was_left_and_what_to_do_next(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = rarefy("compress", llama, out, *GPTQ, "--blocks", 4, "--length", 32)
    assert said.status == 0
    assert "bits a weight" in said.out
    assert "model.embed_tokens.weight" in said.out
    assert "calibrated on the calibration part of pydoc_data.topics: 4 blocks of 32 tokens" in said.out
    assert f"rarefy evaluate {out} --against {llama}" in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())


def test_progress_goes_to_stderr(llama: Path, tmp_path: Path) -> None:
    said = rarefy("compress", llama, tmp_path / "out", *GPTQ, "--blocks", 2, "--length", 32, "--json")
    said.json()
    assert "coding" in said.err


def test_same_command_again_is_already_done(llama: Path, packed: Path) -> None:
    before = (packed / "model.safetensors").read_bytes()
    again = ("compress", llama, packed, *GPTQ, "--blocks", 4, "--length", 32)
    said = rarefy(*again)
    assert said.status == 0
    assert "already done" in said.err
    assert rarefy(*again, "--json").json()["already"] is True
    assert (packed / "model.safetensors").read_bytes() == before


def test_recipe_of_an_artifact_runs_again_to_the_same_bytes(llama: Path, packed: Path, tmp_path: Path) -> None:
    recipe = packed / "recipe.toml"
    assert 'name = "quantize.gptq"' in recipe.read_text()
    said = rarefy("compress", llama, tmp_path / "out", "-r", recipe, "--blocks", 4, "--length", 32)
    assert said.status == 0, said.err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (packed / "model.safetensors").read_bytes()


def test_exclude_leaves_tensors_alone(llama: Path, tmp_path: Path) -> None:
    words = ("-m", "quantize.rtn", "--exclude", "*.0.*", "--exclude", "*mlp*", "--json")
    left = rarefy("compress", llama, tmp_path / "out", *words).json()["left"]
    assert left["model.layers.0.self_attn.q_proj.weight"] == "excluded"
    assert left["model.layers.1.mlp.up_proj.weight"] == "excluded"
    assert "model.layers.1.self_attn.q_proj.weight" not in left


def test_archive_is_smaller_and_says_its_decode_time(llama: Path, packed: Path, tmp_path: Path) -> None:
    words = ("compress", llama, tmp_path / "out", *GPTQ, "--blocks", 4, "--length", 32)
    said = rarefy(*words, "--archive")
    assert said.status == 0, said.err
    assert "decodes in" in said.out
    assert "of weights a second" in said.out
    assert (tmp_path / "out" / "recipe.toml").read_text().startswith('coder = "archive"\n')
    assert len((tmp_path / "out" / "model.safetensors").read_bytes()) < len((packed / "model.safetensors").read_bytes())
    assert rarefy("verify", tmp_path / "out").status == 0
    made = rarefy("compress", llama, tmp_path / "huffman", *words[3:], "--coder", "huffman", "--json").json()
    assert made["decode_seconds"] > 0


def test_dry_run_writes_nothing(llama: Path, tmp_path: Path) -> None:
    said = rarefy("compress", llama, tmp_path / "out", *GPTQ, "--dry-run", "--json")
    assert set(said.json()) == {"memory", "disk", "cpu_seconds"}
    assert "nothing was written" in rarefy("compress", llama, tmp_path / "out", *GPTQ, "--dry-run").out
    assert list(tmp_path.iterdir()) == []


def test_text_and_work_folder_of_ones_own(llama: Path, tmp_path: Path) -> None:
    text, work = tmp_path / "text.txt", tmp_path / "work"
    text.write_text("the quick brown fox jumps over the lazy dog and on it goes\n" * 60)
    out = tmp_path / "out"
    said = rarefy("compress", llama, out, *GPTQ, "--data", text, "--length", 32, "--work-dir", work, "--json")
    assert said.json()["calibration"][0]["name"] == "text.txt"
    assert not out.with_name("out.work").exists()


def test_threads_reach_every_library(llama: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        said = rarefy("compress", llama, tmp_path / out, *GPTQ, "--blocks", 2, "--length", 32, "--threads", 1)
        assert said.status == 0
    one, two = (sorted(p for p in (tmp_path / out).iterdir() if p.is_file()) for out in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "quantize.entropy, quantize.entropy_aware, "),
        (("-m", "quantize.rtn", "-r", "x.toml"), "-r and -m are both given"),
        (("-m", "quantize.rnt"), "did you mean quantize.rtn"),
        (("-m", "quantize.rtn:bit=4"), "did you mean bits"),
        (("-m", "quantize.rtn:bits=99"), "at most 8"),
        (("-m", "quantize.rtn:bits=four"), "it must be an integer"),
        (("-m", "quantize.rtn", "--coder", "morse"), "no coder is called 'morse'"),
        (("-m", "quantize.rtn", "--coder", "rans", "--archive"), "give one of the two"),
        (("-r", "missing.toml"), "cannot read the recipe missing.toml"),
        (("-m", "quantize.gptq", "--data", "missing.txt"), "no such file"),
        (("-m", "quantize.gptq", "--dtype", "float16"), "--dtype"),
        (("-m", "quantize.rtn", "--device", "cuda:99"), "there is no cuda:99 here"),
        (("-m", "quantize.rtn", "--device", "abacus"), "use cpu"),
        (("-m", "quantize.rtn", "--threads", "0"), "--threads"),
        (("-m", "quantize.rtn", "--frobnicate"), "rarefy compress --help"),
    ],
)
def test_wrong_calls_are_one_line_and_status_2(llama: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    said = rarefy("compress", llama, tmp_path / "out", *words)
    assert said.status == 2
    assert told in said.error()
    assert not (tmp_path / "out").exists()


def test_missing_model(tmp_path: Path) -> None:
    said = rarefy("compress", tmp_path / "nothing", tmp_path / "out", "-m", "quantize.rtn")
    assert said.status == 2
    assert "does not exist" in said.error()


def test_existing_out_is_refused(llama: Path, packed: Path, tmp_path: Path) -> None:
    other = rarefy("compress", llama, packed, "-m", "quantize.rtn")
    assert other.status == 2
    assert "was made from other inputs or settings" in other.error()
    (tmp_path / "file").write_text("mine")
    said = rarefy("compress", llama, tmp_path / "file", "-m", "quantize.rtn")
    assert said.status == 2
    assert "choose another output" in said.error()
    assert (tmp_path / "file").read_text() == "mine"


def test_unwritable_folder(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    said = rarefy("compress", llama, tmp_path / "file" / "out", "-m", "quantize.rtn")
    assert said.status == 1
    assert "cannot write" in said.error()


def test_calibration_text_that_is_too_short(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text("hello")
    said = rarefy("compress", llama, tmp_path / "out", *GPTQ, "--data", tmp_path / "tiny.txt")
    assert said.status == 2
    assert "too little text" in said.error()


def test_network_without_default_data_asks_for_some(mlp: str, tmp_path: Path) -> None:
    said = rarefy("compress", mlp, tmp_path / "out", *GPTQ)
    assert said.status == 2
    assert "--data" in said.error()


def test_weights_that_are_no_numbers(here: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weight = np.zeros((24, 64), np.float32)
    weight[3, 3] = np.nan
    rest = {"0.bias": np.zeros(24, np.float32), "2.bias": np.zeros(10, np.float32)}
    save_file({"0.weight": weight, "2.weight": np.ones((10, 24), np.float32), **rest}, tmp_path / "nan.safetensors")
    model = f"cli_nets:mlp@{tmp_path / 'nan.safetensors'}"
    said = rarefy("compress", model, tmp_path / "out", "-m", "quantize.rtn")
    assert said.status != 0
    assert "0.weight" in said.error()
    assert not (tmp_path / "out").exists()


def test_says_that_a_type_is_slow_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rarefy import threads
    from rarefy.cli.session import session

    for quick, said in (
        (True, ""),
        (False, "no arithmetic for bfloat16: --dtype float32 takes a fraction of the time"),
    ):
        monkeypatch.setattr(threads, "quick_in", lambda dtype, quick=quick: quick or dtype == "float32")
        with session(1, "cpu", "bfloat16"), session(1, "cpu", "float32"):
            pass
        found = " ".join(capsys.readouterr().err.split())
        assert (said in found) if said else not found
