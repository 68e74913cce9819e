"""What a compression says when it is done."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rarefy.files.container import Reader
from rarefy.opening import factory_in
from rarefy.report import words
from rarefy.units import bpw, human

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import RenderableType


class Said(Protocol):
    """What had been said of a run, as `rarefy.plan.result.Predicted` has it."""

    @property
    def bytes(self) -> int | None: ...
    @property
    def nats(self) -> float | None: ...
    @property
    def peak_rss_bytes(self) -> int: ...
    @property
    def cpu_seconds(self) -> float: ...


class Made(Protocol):
    """What a run made, as `rarefy.Result` says it."""

    @property
    def out(self) -> Path: ...
    @property
    def bytes(self) -> int: ...
    @property
    def weights(self) -> int: ...
    @property
    def bpw(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def peak_rss_bytes(self) -> int: ...
    @property
    def steps(self) -> list[dict[str, Any]]: ...
    @property
    def left(self) -> dict[str, str]: ...
    @property
    def already(self) -> bool: ...
    @property
    def decode_seconds(self) -> float | None: ...
    @property
    def cpu_seconds(self) -> float: ...
    @property
    def predicted(self) -> Said | None: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Compressed:
    """A finished run.

    source: what was compressed, as the user named it.
    original: bytes of its tensors in their own element types.
    sizes: bytes of each record of the artifact.
    calibration: what the manifest says of the data.
    generates, reads_text: whether it is a language model, and whether it has default data.
    """

    source: str
    made: Made
    original: int
    sizes: Mapping[str, int]
    calibration: list[dict[str, Any]]
    generates: bool
    reads_text: bool

    @classmethod
    def of(cls, source: str, made: Made, sections: Mapping[str, Any], generates: bool, reads_text: bool) -> Compressed:
        """From a run's result and the manifest that it wrote."""
        reader = Reader(made.out)
        try:
            sizes = dict(reader.sizes)
        finally:
            reader.close()
        data = sections.get("calibration", [])
        return cls(source, made, sections["original"]["bytes"], sizes, data, generates, reads_text)

    def to_json(self) -> dict[str, Any]:
        """Result.to_json, and what was there before."""
        data = [{"name": entry["name"], "shape": entry["shape"]} for entry in self.calibration]
        return {**self.made.to_json(), "original": {"bytes": self.original}, "calibration": data}

    def table(self) -> RenderableType:
        """For a terminal."""
        parts: list[RenderableType] = [self._figures(), "", self._steps()]
        if self.made.predicted is not None:
            parts += ["", self._predicted(self.made.predicted)]
        if self.made.left:
            parts += ["", self._left()]
        if self.calibration:
            parts += ["", Text(f"calibrated on {_data(self.calibration[-1])}", "dim")]
        return Group(*parts, "", self._next())

    def _figures(self) -> Table:
        made, grid = self.made, _grid()
        before = bpw(self.original, made.weights)
        ratio = f"{self.original / made.bytes:.2f}x smaller"
        if self.generates and before > 16.5:
            ratio += f" ({2 * made.weights / made.bytes:.2f}x against 2 bytes a weight)"
        grid.add_row("before", human(self.original), f"{before:.2f} bits a weight")
        grid.add_row("after", Text(human(made.bytes), "bold"), Text(f"{made.bpw:.2f} bits a weight, {ratio}", "bold"))
        grid.add_row("weights", words.count(made.weights), "")
        if not made.already:
            grid.add_row("took", words.seconds(made.seconds), f"peak memory {human(made.peak_rss_bytes)}")
        if made.decode_seconds is not None:
            speed = human(round(self.original / max(made.decode_seconds, 1e-6)))
            grid.add_row(
                "decodes in", words.seconds(made.decode_seconds), f"{speed} of weights a second, measured here"
            )
        return grid

    def _predicted(self, said: Said) -> Table:
        """What was said beforehand beside what came of it."""
        made = self.made
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        for name in ("", "predicted", "measured"):
            table.add_column(name, justify="right" if name else "left")
        if said.bytes is not None:
            table.add_row("bytes", f"{said.bytes:,}", f"{made.bytes:,}")
        table.add_row("peak memory", human(said.peak_rss_bytes), human(made.peak_rss_bytes))
        table.add_row("processor", words.seconds(said.cpu_seconds), words.seconds(made.cpu_seconds))
        if said.nats is not None:
            table.add_row("divergence", f"{said.nats:.3g} nats", Text("by evaluate", "dim"))
        return table

    def _steps(self) -> Table:
        grid = _grid()
        for step in self.made.steps:
            what = f"coded {words.plural(step['coded'], 'tensor')}"
            if step["worst"] is not None:
                what += f", damage at most {words.share(step['worst'][1])} ({step['worst'][0]})"
            grid.add_row(Text(step["method"], "bold"), what)
            grid.add_row("", Text(words.settings(step["settings"]), "dim"))
        return grid

    def _left(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("left as it was", overflow="fold")
        table.add_column("bytes", justify="right", no_wrap=True)
        table.add_column("why")
        rows = [
            (sum(self.sizes.get(name, 0) for name in names), what, why)
            for what, names, why in words.grouped(self.made.left)
        ]
        for size, what, why in sorted(rows, reverse=True):
            table.add_row(what, human(size), why)
        return table

    def _next(self) -> Text:
        factory = factory_in(self.source)
        out = shlex.quote(f"{factory}@{self.made.out}" if factory else str(self.made.out))
        source = shlex.quote(self.source)
        data = "" if self.reads_text else " --data FILE.npz"
        lines = [f"rarefy evaluate {out} --against {source}{data}", f"rarefy inspect {out}"]
        if self.generates:
            lines.append(f'rarefy generate {out} "Once upon a time"')
        text = Text("next\n", "dim")
        for line in lines:
            text.append(f"  {line}\n", "cyan")
        text.rstrip()
        return text


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="left")
    grid.add_column()
    return grid


def _data(entry: Mapping[str, Any]) -> str:
    """`the calibration part of pydoc_data.topics: 64 blocks of 512 tokens`."""
    shape = entry["shape"]
    examples = str(entry["name"]).endswith(".npz") or len(shape) != 2
    size = words.plural(shape[0], "example") if examples else f"{words.plural(shape[0], 'block')} of {shape[1]} tokens"
    return f"{entry['name']}: {size}"
