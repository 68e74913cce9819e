"""What an export says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rarefy.report import words
from rarefy.units import Interval, human

if TYPE_CHECKING:
    from rich.console import RenderableType


class Proved(Protocol):
    """What an engine made of the files, as `rarefy.export.proof.Proof` has it."""

    @property
    def engine(self) -> str: ...
    @property
    def limit(self) -> float: ...
    @property
    def kl(self) -> float: ...
    @property
    def largest(self) -> float: ...
    @property
    def tokens(self) -> bool | None: ...
    @property
    def absent(self) -> str: ...


class Made(Protocol):
    """What an export made, as `rarefy.export.run.Exported` has it."""

    @property
    def folder(self) -> Path: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def forms(self) -> Mapping[str, int]: ...
    @property
    def inexact(self) -> Mapping[str, float]: ...
    @property
    def why(self) -> Mapping[str, str]: ...
    @property
    def cost(self) -> Interval | None: ...
    @property
    def proofs(self) -> Sequence[Proved]: ...


def table(made: Made) -> RenderableType:
    """For a terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    if made.bytes is not None:
        grid.add_row("written", Text(f"{human(made.bytes)} in {made.folder}", "bold"))
    for form, count in made.forms.items():
        grid.add_row("held as", f"{form}: {words.plural(count, 'tensor')}")
    grid.add_row("exact", _exact(made))
    if made.cost is not None:
        grid.add_row("conversion", Text(f"costs {made.cost} nats of divergence", "bold"))
    for proof in made.proofs:
        grid.add_row("proved in" if not proof.absent else "not proved in", f"{proof.engine}: {_proof(proof)}")
    for what, _, why in words.grouped(made.why):
        grid.add_row("", Text(f"{what}: {why}", "dim"))
    return Group(grid)


def _exact(made: Made) -> str:
    every = sum(made.forms.values())
    if not made.inexact:
        return "every tensor, to the last bit"
    name, worst = max(made.inexact.items(), key=lambda item: item[1])
    return (
        f"{every - len(made.inexact)} of {every} tensors; relative squared error at most {words.share(worst)} ({name})"
    )


def _proof(proof: Proved) -> str:
    if proof.absent:
        return proof.absent
    told = f"distortion {proof.kl:.2g} nats, largest difference {proof.largest:.2g}"
    return f"{told}, the same tokens" if proof.tokens else told
