"""What a plan says."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rarefy.report import words
from rarefy.units import bpw, human


class Needs(Protocol):
    """Estimates, as `rarefy.plan.predict.Needs` has them."""

    @property
    def memory(self) -> int: ...
    @property
    def disk(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Foreseen(Protocol):
    """A divergence, as `rarefy.plan.foresee.Foreseen` has it."""

    @property
    def nats(self) -> float | None: ...
    @property
    def claimed(self) -> bool: ...
    @property
    def rests(self) -> str: ...


class Plan(Protocol):
    """As `rarefy.plan.planned.Planned` says it."""

    @property
    def bytes(self) -> int: ...
    @property
    def weights(self) -> int: ...
    @property
    def blocks(self) -> tuple[int, int]: ...
    @property
    def needs(self) -> Needs: ...
    @property
    def foreseen(self) -> Foreseen | None: ...
    @property
    def recipe(self) -> Any: ...


@dataclass(frozen=True)
class Planned:
    """A plan for the network that the user called `source`."""

    source: str
    plan: Plan

    def table(self) -> RenderableType:
        """For a terminal; the recipe as `compress -r` takes it comes last."""
        plan, grid = self.plan, Table.grid(padding=(0, 2))
        about = "about" if plan.foreseen is not None else "at most"
        grid.add_row(
            "weight files",
            Text(f"{about} {human(plan.bytes)}", "bold"),
            f"{bpw(plan.bytes, plan.weights):.2f} bits a weight",
        )
        grid.add_row("divergence", *self._divergence())
        grid.add_row("processor", f"about {words.seconds(plan.needs.seconds)}", "all threads together")
        grid.add_row("memory", f"about {human(plan.needs.memory)}", "")
        grid.add_row("disk", f"at most {human(plan.needs.disk)}", "while it runs")
        parts: list[RenderableType] = [grid]
        looked, every = plan.blocks
        if looked < every:
            parts.append(Text(f"looked at {looked} of {every} blocks; the run calibrates on all", "dim"))
        recipe = Text(plan.recipe.to_toml().rstrip())
        use = Text(f"rarefy compress {shlex.quote(self.source)} OUT -r plan.toml", "cyan")
        return Group(*parts, "", Text("recipe, to be saved as plan.toml", "dim"), recipe, "", use)

    def _divergence(self) -> tuple[Text, str]:
        found = self.plan.foreseen
        if found is None or found.nats is None:
            return Text("not predicted"), "" if found is None else found.rests
        doubt = "" if found.claimed else "outside of 0.02 to 0.5 nats, where predictions hold; "
        return Text(f"{found.nats:.3g} nats", "bold"), doubt + found.rests
