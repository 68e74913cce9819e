"""`rarefy plan`, and budgets on the command line: what is said before beside what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli.command import rarefy

if TYPE_CHECKING:
    from pathlib import Path

FEW = ("--blocks", 16, "--length", 32)


def test_a_plan_is_what_comes(llama: Path, tmp_path: Path) -> None:
    method = ("-m", "quantize.entropy:bits=6")
    plan = rarefy("plan", llama, *method, *FEW, "--json").json()
    made = rarefy("compress", llama, tmp_path / "out", *method, *FEW, "--json").json()
    assert plan["bytes"] == made["predicted"]["bytes"]
    assert plan["kl"] == made["predicted"]["nats"]
    assert plan["cpu_seconds"] > 0
    assert made["cpu_seconds"] > 0
    assert plan["blocks"] == {"looked_at": 16, "of_a_run": 16}
    found = rarefy("evaluate", tmp_path / "out", "--against", llama, *FEW, "--json").json()
    assert found["predicted_kl"] == plan["kl"]
    said = rarefy("evaluate", tmp_path / "out", "--against", llama, *FEW)
    assert "predicted" in said.out


def test_a_divergence_is_kept_to(llama: Path, tmp_path: Path) -> None:
    plan = rarefy("plan", llama, "--max-kl", 0.003, *FEW, "--json").json()
    assert plan["kl"] == pytest.approx(0.003, rel=0.02)
    assert not plan["kl_claimed"]
    assert f"step = {plan['step']!r}" in plan["recipe"]
    (tmp_path / "plan.toml").write_text(plan["recipe"])
    by_recipe = rarefy("compress", llama, tmp_path / "one", "-r", tmp_path / "plan.toml", *FEW, "--json").json()
    made = rarefy("compress", llama, tmp_path / "two", "--max-kl", 0.003, *FEW, "--json").json()
    assert made["bytes"] == by_recipe["bytes"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    again = rarefy("compress", llama, tmp_path / "two", "--max-kl", 0.003, *FEW)
    assert "already done" in again.err


def test_a_plan_reads_well(llama: Path) -> None:
    said = rarefy("plan", llama, "--bpw", 5, "--blocks", 40, "--length", 16)
    assert said.status == 0, said.err
    for part in ("weight files", "divergence", "processor", "memory", "disk", "looked at 16 of 40", "[[method]]"):
        assert part in said.out
    said = rarefy("plan", llama, "-m", "quantize.rtn:bits=4,group=16")
    assert "at most" in said.out
    assert "not predicted" in said.out


def test_too_few_bytes_are_refused(llama: Path, tmp_path: Path) -> None:
    line = rarefy("plan", llama, "--size", 3000, *FEW).error()
    assert "too few" in line
    line = rarefy("compress", llama, tmp_path / "out", "--size", 3000, *FEW).error()
    assert "too few" in line
    assert not (tmp_path / "out").exists()


def test_budgets_exclude_one_another(llama: Path) -> None:
    assert "both given" in rarefy("plan", llama, "--size", "1MB", "--max-kl", 0.1).error()
    assert "hold to a budget" in rarefy("plan", llama, "-m", "quantize.rtn", "--max-kl", 0.1).error()
