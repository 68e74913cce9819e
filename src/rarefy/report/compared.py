"""What a comparison says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rarefy.measure.degeneration import degeneration
from rarefy.report.evaluated import NAMES, Network, distortion, signed
from rarefy.report.words import share
from rarefy.units import Interval, human

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rarefy.measure.compare import Comparison, NoWorse, Pair
    from rarefy.measure.degeneration import Speech
    from rarefy.measure.evaluation import Evaluation

_SCORES = ("perplexity", "accuracy", "spearman")

_SPEECH: tuple[tuple[str, Callable[[Speech], str]], ...] = (
    ("texts that end in a loop", lambda s: f"{s.loops} of {len(s.continuations)}"),
    ("texts that it ends itself", lambda s: f"{s.ended} of {len(s.continuations)}"),
    ("tokens a text", lambda s: f"{s.tokens / len(s.continuations):.0f}, at most {s.limit}"),
    ("phrases of 4 tokens said once", lambda s: share(s.distinct(4))),
    ("longest stretch said again at once", lambda s: f"{s.longest_run} tokens"),
)


@dataclass(frozen=True)
class Compared:
    """Networks by the names the user gave, what was measured on data called `data`, of `shape`, and what they wrote.

    original: the name of the original among `networks`, if there is one.
    """

    comparison: Comparison
    networks: Mapping[str, Network]
    original: str | None
    speeches: Mapping[str, Speech]
    data: str
    shape: str
    seconds: float

    def warnings(self) -> list[str]:
        """Of the measurement, then of the texts."""
        theirs = self.speeches.get(self.original or "")
        ours = (name for name in self.comparison.networks if name in self.speeches)
        texts = (line for name in ours for line in degeneration(name, self.speeches[name], theirs))
        return [*self.comparison.warnings, *texts]

    def to_json(self) -> dict[str, Any]:
        """Networks, the pairs among them, the original."""
        found: dict[str, Any] = {
            "blocks": self.comparison.blocks,
            "data": self.data,
            "networks": [self._network(name, each) for name, each in self.comparison.networks.items()],
            "pairs": [pair.as_json() for pair in self.comparison.pairs],
            "seconds": round(self.seconds, 3),
        }
        if self.original is not None and self.comparison.original is not None:
            found["original"] = self._network(self.original, self.comparison.original)
        if warnings := self.warnings():
            found["warnings"] = warnings
        return found

    def _network(self, name: str, found: Evaluation) -> dict[str, Any]:
        written = {"written": self.speeches[name].as_json()} if name in self.speeches else {}
        return {"name": name, **self.networks[name].to_json(), **found.as_json(), **written}

    def table(self) -> RenderableType:
        """For a terminal: a column for each network, then a few lines for every two of them."""
        return Group(self._networks(), *(part for pair in self.comparison.pairs for part in ("", self._pair(pair))))

    def _networks(self) -> Table:
        table = _table("")
        shown = dict(self.comparison.networks)
        if self.original is not None and self.comparison.original is not None:
            shown = {self.original: self.comparison.original, **shown}
        for name in shown:
            table.add_column(Text(name), overflow="fold")
        table.add_row("bytes", *(human(self.networks[name].bytes) for name in shown))
        table.add_row("bits a weight", *(f"{self.networks[name].bpw:.2f}" for name in shown))
        for score in _SCORES:
            if any(getattr(found, score) is not None for found in shown.values()):
                table.add_row(NAMES.get(score, score), *(str(getattr(found, score)) for found in shown.values()))
        if self.original is not None:
            self._against_the_original(table, shown)
        for words, figure in _SPEECH:
            if self.speeches:
                table.add_row(words, *(figure(self.speeches[name]) for name in shown))
        return table

    def _against_the_original(self, table: Table, shown: Mapping[str, Evaluation]) -> None:
        divergences = [Text("0" if name == self.original else str(found.kl), "bold") for name, found in shown.items()]
        table.add_row(Text(self._called("kl"), "bold"), *divergences)
        changed = [pair.changed for pair in self.comparison.pairs[-len(self.comparison.networks) :]]
        if None not in changed:
            table.add_row("answers unlike the original's", "0 %", *(_percent(each) for each in changed if each))

    def _pair(self, pair: Pair) -> Table:
        table = _table(f"{pair.first} against {pair.second}", "difference", "which means")
        for name, interval in pair.differences.items():
            # Perplexity says the same as the likelihood, and an original has no divergence from itself.
            if name == "nll" or (name == "kl" and pair.second not in self.networks):
                continue
            better = pair.better(name)
            table.add_row(
                self._called(name),
                signed(interval),
                "no difference seen" if better is None else f"{better} is better",
            )
        if pair.outcomes is not None:
            only = f"{pair.outcomes.first} and {pair.outcomes.second}"
            table.add_row(
                "right where the other is wrong", only, f"McNemar's exact test: {_p(pair.outcomes.p_value())}"
            )
        if pair.changed is not None and pair.second in self.networks:
            table.add_row("answers that differ", _percent(pair.changed))
        for each in pair.no_worse:
            table.add_row(f"{self._called(each.measure)} worse by at most {each.margin:g}", *_promise(each))
        return table

    def _called(self, measure: str) -> str:
        if measure == "kl":
            return f"{distortion(next(iter(self.comparison.networks.values())))}, to the original"
        return "negative log likelihood" if measure == "nll" else NAMES.get(measure, measure)


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    return table


def _promise(each: NoWorse) -> tuple[str, str]:
    sure = "over 99.9 %" if each.confidence > 0.999 else f"{100 * each.confidence:.1f} %"
    means = "holds" if each.holds else "does not hold" if each.confidence < 0.05 else "not shown: 95 % are asked for"
    return f"{sure} sure", means


def _percent(interval: Interval) -> str:
    return "{:.3g} % [{:.3g}, {:.3g}]".format(*(100 * end for end in (interval.value, interval.low, interval.high)))


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"
