"""What a measurement of speed says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarefy.report import words
from rarefy.units import Interval, human

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rarefy.engines.workers import Asked
    from rarefy.measure.speed import Race

_CALLED = {
    "prompt": ("prompt tokens a second", 1.0),
    "first_token": ("first token, ms", 1e3),
    "generation": ("generated tokens a second", 1.0),
}
"""Figures in words, and what they are shown in. What others are called depends on the unit."""


@dataclass(frozen=True)
class Benched:
    """What was asked of networks, and what they reached."""

    race: Race
    asked: Asked

    def to_json(self) -> dict[str, Any]:
        """What was asked, the bandwidth, the networks."""
        return {
            **asdict(self.asked),
            "bandwidth": self.race.bandwidth.as_json(),
            "networks": [speed.as_json() for speed in self.race.speeds],
        }

    def line(self) -> str:
        """How it was measured."""
        asked, unit = self.asked, self.race.speeds[0].unit
        work = {
            "tokens": f"{asked.prompt} tokens read, {asked.generate} written",
            "sentences": f"sentences of {asked.prompt} tokens",
        }.get(unit, "examples")
        return (
            f"{work}, {asked.batch} at once, {asked.repeat} times in turn on {words.plural(asked.threads, 'thread')}; "
            f"reading memory: {_shown(self.race.bandwidth, 1e-9)} GB a second"
        )

    def table(self) -> RenderableType:
        """For a terminal: a column for each network, each figure over its ratio to the first network's."""
        speeds = self.race.speeds
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("")
        for speed in speeds:
            table.add_column(Text(speed.contender.name), overflow="fold")
        table.add_row("engine", *(f"{speed.contender.engine}, {speed.mode}" for speed in speeds))
        for name in speeds[0].figures:
            what, factor = _CALLED.get(name, (f"{speeds[0].unit} a second", 1.0))
            table.add_row(Text(what, "bold"), *(Text(_shown(speed.figures[name], factor), "bold") for speed in speeds))
            if len(speeds) > 1 and name != "first_token":  # which the prompt's speed has said
                table.add_row("  over the first's", "1", *(_shown(speed.ratios[name]) for speed in speeds[1:]))
        if any(speed.share for speed in speeds):
            shares = (_shown(speed.share, 100) + " %" if speed.share else "not known" for speed in speeds)
            table.add_row("of memory bandwidth", *shares)
        table.add_row("memory above imports", *(human(speed.resident) for speed in speeds))
        table.add_row("  at most", *(human(speed.peak) for speed in speeds))
        table.add_row("loaded in", *(words.seconds(speed.loaded) for speed in speeds))
        return table


def _shown(value: Interval, factor: float = 1.0) -> str:
    return "{:.4g} [{:.4g}, {:.4g}]".format(*(factor * end for end in (value.value, value.low, value.high)))
