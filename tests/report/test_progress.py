"""Progress: one stretch of work over many parts, a line only now and then, and a time left that makes sense."""

from __future__ import annotations

import io

from rich.console import Console

from rarefy.report.progress import Bars, Lines, Track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[Lines, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    return Lines(Console(file=out, width=200), clock), clock, out


def test_parts_of_a_walk_are_one_stretch() -> None:
    shown, clock, out = lines()
    for i in range(4):
        with shown.task(f"coding {i}", 40, 10 * i) as advance:
            for _ in range(10):
                clock.now += 1
                advance(1)
    said = out.getvalue().splitlines()
    assert said[0] == "coding 0"
    assert "coding 1: 30 %, 12 s, about 28 s left" in said
    assert said[-1] == "coding 3: 100 %, 40 s"
    assert len(said) <= 15


def test_quick_work_is_said_once() -> None:
    shown, _, out = lines()
    with shown.task("writing", 1000) as advance:
        for _ in range(1000):
            advance(1)
    assert out.getvalue() == "writing\n"


def test_resumed_work_counts_from_where_it_began() -> None:
    track = Track("coding", 100, 50, 50, began=0.0, ticked=0.0)
    track.advance(10, now=5.0)
    assert track.left(now=5.0) == 20.0
    assert track.left(now=7.0) == 18.0
    assert track.left(now=50.0) == 0.0


def test_second_walk_of_the_same_length_is_a_new_stretch() -> None:
    track = Track("coding", 10, 0, 0, began=0.0, ticked=0.0)
    assert track.continues(10, 3)
    assert not track.continues(10, 0)
    assert not track.continues(12, 3)


def test_bars_leave_nothing_behind() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=80))
    with bars.task("opening", 0):
        pass
    for i in range(2):
        with bars.task(f"coding {i}", 4, 2 * i) as advance:
            advance(2)
    bars.note("a note")
    assert "a note" in out.getvalue()
    assert not bars._bars.live.is_started
