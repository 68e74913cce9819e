"""Speed: intervals of medians, what is made of turns, who runs when, and what becomes of a process that dies."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import binom

from rarefy.engines.contenders import ENGINES, Contender, Engine
from rarefy.engines.workers import Asked, Turn, Worker
from rarefy.errors import RarefyError, UsageError
from rarefy.measure import speed
from rarefy.measure.speed import figures, median, race

MB = 10**6


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 10, 25, 100])
def test_the_interval_of_a_median_is_that_of_the_sign_test(n: int) -> None:
    values = np.random.default_rng(n).permutation(n) + 1.0  # the k-th smallest is k
    found = median(values)
    assert found.value == np.median(values)
    k = max((k for k in range(1, n + 1) if binom.cdf(k - 1, n, 0.5) <= 0.025), default=0)
    assert (found.low, found.high) == ((k, n + 1 - k) if k else (-math.inf, math.inf))


def test_it_covers_the_median_of_a_law_with_a_long_tail() -> None:
    draws = np.random.default_rng(0).pareto(1.5, (4000, 10))
    held = np.mean([2 ** (1 / 1.5) - 1 in median(each) for each in draws])
    assert 0.95 <= held <= 0.99


def test_figures_of_a_language_model() -> None:
    turns = [Turn((0.5, 0.6, 0.7, 0.8), 0, 0), Turn((0.25, 0.5, 0.75, 1.0), 0, 0)]
    found = figures(turns, "tokens", Asked(prompt=50, generate=4, batch=2))
    np.testing.assert_allclose(found["first_token"], [0.5, 0.25])
    np.testing.assert_allclose(found["prompt"], [200, 400])
    np.testing.assert_allclose(found["generation"], [20, 8])
    assert "generation" not in figures([Turn((0.5,), 0, 0)], "tokens", Asked(generate=1))


def test_figures_of_others() -> None:
    np.testing.assert_allclose(figures([Turn((0.5,), 0, 0)], "sentences", Asked(batch=8))["speed"], [16])


class Acting:
    """A worker without a process: in lap n a token takes `pace` * 2^n seconds, as on a machine that gets slower."""

    log: ClassVar[list[str]]
    facts_of: ClassVar[dict[str, dict]]

    def __init__(self, contender: Contender, python: str, asked: Asked) -> None:
        self.contender, self.asked, self.lap = contender, asked, 0
        self.facts = {"unit": "tokens", "mode": "", "seconds": 1.0, "vocabulary": 9, "positions": None}
        self.facts |= {"touched": 90 * MB, "kept": MB} | self.facts_of.get(contender.name, {})

    def __enter__(self) -> Acting:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append("closed")

    def load(self) -> None:
        self.log.append("load")

    def run(self, ids: list[list[int]], new: int) -> Turn:
        assert np.shape(ids) == (self.asked.batch, self.asked.prompt)
        assert np.max(ids) < 9
        self.log.append(self.contender.name)
        pace = float(self.contender.source) * 2**self.lap
        self.lap += 1
        return Turn(tuple(pace * (i + 1) for i in range(new)), 7, 8)


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> type[Acting]:
    monkeypatch.setattr(Acting, "log", [], raising=False)
    monkeypatch.setattr(Acting, "facts_of", {}, raising=False)
    monkeypatch.setattr(speed, "Worker", Acting)
    monkeypatch.setattr(speed, "interpreter", lambda engine, others: sys.executable)
    monkeypatch.setattr(speed, "PAUSE", 0)
    monkeypatch.setattr(speed, "_Memory", lambda device: SimpleNamespace(read=lambda: 1e9))
    return Acting


NETWORKS = [Contender("slow", "0.2", "packed", "float32"), Contender("fast", "0.1", "packed", "float32")]


def test_networks_run_in_turn_and_are_compared_within_each(acting: type[Acting]) -> None:
    found = race(NETWORKS, Asked(prompt=3, generate=2, batch=1, repeat=6))
    there, back = ["slow", "fast"], ["fast", "slow"]
    assert acting.log == ["load", "load", *(there + back) * 3, *there, "closed", "closed"]
    slow, fast = found.speeds
    # The first turn, at 0.2 seconds a token, is not counted; of the six others the third and the fourth are the middle.
    assert slow.figures["generation"].value == pytest.approx((1 / 1.6 + 1 / 3.2) / 2)
    assert (slow.figures["generation"].low, slow.figures["generation"].high) == pytest.approx((1 / 12.8, 1 / 0.4))
    ratio = fast.ratios["generation"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert (fast.resident, fast.peak, fast.loaded) == (7, 8, 1.0)
    # Weights, and the keys and values of 3 + 2 / 2 tokens: 94 MB in 0.2 seconds at best, of 1 GB a second.
    assert slow.share is not None
    assert slow.share.high == pytest.approx(0.094 / 0.4)
    assert found.bandwidth.value == 1e9


def test_what_a_token_touches_may_not_be_known(acting: type[Acting]) -> None:
    acting.facts_of["slow"] = {"touched": None}
    slow, fast = race(NETWORKS, Asked(prompt=3, generate=2, repeat=6)).speeds
    assert slow.share is None
    assert fast.share is not None


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"positions": 191}, "fast reads at most 191 tokens: 192 are asked for"),
        ({"unit": "sentences"}, "slow is measured in tokens, fast is measured in sentences"),
    ],
)
def test_what_cannot_be_asked(acting: type[Acting], facts: dict, told: str) -> None:
    acting.facts_of["fast"] = facts
    with pytest.raises(UsageError, match=told):
        race(NETWORKS, Asked())
    assert acting.log == ["load", "load", "closed", "closed"]


ENGINE = """
import os, sys, time
def load(asked):
    print("noise on stdout")
    if asked["source"] == "bad": raise ValueError("no such\\nnetwork")
    class Network:
        facts = {"unit": "tokens", "said": asked["prompt"]}
        def run(self, ids, new):
            if asked["source"] == "dies":
                print("out of luck", file=sys.stderr)
                os._exit(3)
            if asked["source"] == "crashes": os.kill(os.getpid(), 9)
            self.held = bytearray(os.urandom(30_000_000))
            self.written = [5] * new
            return [time.perf_counter() + 60 * i for i in range(new)]
        def text(self, prompt, new):
            return prompt[::-1] * new
    return Network()
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(ENGINE)
    monkeypatch.setitem(ENGINES, "mine", Engine("mine", "mine", str(tmp_path / "mine.py")))


def worker(source: str) -> Worker:
    return Worker(Contender("net", source, "mine", "float32"), sys.executable, Asked(prompt=5))


def test_libraries_are_not_what_a_process_holds() -> None:
    from rarefy.engines.runners.worker import _held

    told = """55d0-55d1 rw-p 00000000 00:00 0                          [heap]
Size:                900 kB
Rss:                 100 kB
Pss:                  50 kB
7f00-7f01 r-xp 00000000 08:01 12       /usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0
Rss:                1000 kB
VmFlags: rd ex mr mw me
7f02-7f03 rw-p 00000000 00:00 0
Rss:                  20 kB
7f04-7f05 r--s 00000000 08:01 13       /home/a b.so/model 1.gguf
Rss:                   3 kB
"""
    assert list(_held(told.splitlines(keepends=True))) == [100, 20, 3]


@pytest.mark.usefixtures("engine")
def test_a_process_of_its_own() -> None:
    with worker("good") as each:
        each.load()
        assert each.facts["said"] == 5
        assert each.facts["seconds"] < 60
        turn = each.run([[1]], 3)
        assert each.text("ab", 2) == "baba"
    assert turn.written == (5, 5, 5)
    np.testing.assert_allclose(np.diff(turn.known), 60, atol=1)
    assert 0 <= turn.known[0] < 60
    assert 29 * MB < turn.resident < 60 * MB
    assert turn.resident <= turn.peak < 120 * MB


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("bad", "mine does not run net: ValueError: no such network"),
        ("dies", "mine does not run net: its process ended with status 3: out of luck"),
        ("crashes", "mine does not run net: its process ended by signal 9: noise on stdout"),
    ],
)
def test_a_process_that_fails_is_one_line(source: str, told: str) -> None:
    with pytest.raises(RarefyError) as error, worker(source) as each:
        each.load()
        each.run([[1]], 3)
    assert str(error.value) == told
