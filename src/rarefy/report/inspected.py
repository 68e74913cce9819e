"""An inspection as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rarefy.report import words
from rarefy.units import bpw, human

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from rarefy.report.inspection import Inspection, Tensor


GGUF = ", dequantized from what the file holds"

DAMAGE = "damage: relative squared error of a layer's output (of its weights, by steps without data), summed over steps"

ROLES = {
    "values": "quantized or kept values",
    "scale": "scales",
    "zero": "zero points",
    "support": "which weights are zero",
    "record heads": "heads of records",
}
"""Streams of codes, for people."""


def tables(found: Inspection, layers: bool) -> RenderableType:
    """For a terminal. layers: a row for every tensor instead of one for each block."""
    parts: list[RenderableType] = [_heading(found), "", _kinds(found)]
    if found.roles:
        parts += ["", _roles(found)]
    parts += ["", _tensors(found) if layers else _blocks(found)]
    if found.steps:
        parts.append(Text(DAMAGE, "dim"))
    strange = _strange(found)
    if strange:
        parts += ["", *strange]
    if found.steps:
        parts += ["", _history(found)]
    if found.side_files:
        parts += ["", _side_files(found)]
    return Group(*parts)


def _heading(found: Inspection) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    blocks = f"{len(found.parts)} blocks" if found.parts else f"one segment, held whole: {found.whole_because}"
    grid.add_row(Text("network", "dim"), Text(found.architecture, "bold"))
    grid.add_row(Text("family", "dim"), f"{found.family or 'none that is known'}, {blocks}")
    exact = f"{found.weights:,}"
    about = words.count(found.weights)
    grid.add_row(Text("weights", "dim"), exact if about == exact else f"{exact}, {about}")
    size = human(found.bytes) + ("" if math.isnan(found.bpw) else f", {found.bpw:.2f} bits a weight")
    if found.original is not None:
        size += f"; {human(found.original)} before, {found.original / max(found.bytes, 1):.2f}x"
    grid.add_row(Text("bytes", "dim"), Text(size, "bold"))
    grid.add_row(Text("elements", "dim"), _dtypes(found.tensors) + (GGUF if found.source.endswith(".gguf") else ""))
    if found.ties:
        ties = ", ".join(f"{alias} is {owner}" for alias, owner in found.ties.items())
        grid.add_row(Text("tied", "dim"), ties)
    return grid


def _dtypes(tensors: Iterable[Tensor]) -> str:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return ", ".join(f"{words.count(n)} {dtype}" for dtype, n in sorted(counts.items(), key=lambda item: -item[1]))


def _kinds(found: Inspection) -> Table:
    table = _table("kind", "tensors", "elements", "bytes", "share", "stored as")
    groups: dict[str, list[Tensor]] = {}
    for tensor in found.tensors:
        groups.setdefault(tensor.kind, []).append(tensor)
    for kind, tensors in sorted(groups.items(), key=lambda item: -_elements(item[1])):
        table.add_row(
            kind,
            str(len(tensors)),
            words.count(_elements(tensors)),
            _size(tensors),
            _share(tensors, found.bytes),
            _codes(tensors),
        )
    return table


def _codes(tensors: Iterable[Tensor]) -> str:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.code] = counts.get(tensor.code, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return ordered[0][0]
    shown = "; ".join(f"{code} ({n})" for code, n in ordered[:3])
    return shown + (f"; {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _roles(found: Inspection) -> Table:
    table = _table("what the bytes say", "bytes", "share")
    for role, size in found.roles.items():
        table.add_row(ROLES.get(role, role), human(size), f"{100 * size / max(found.bytes, 1):.1f} %")
    return table


def _blocks(found: Inspection) -> Table:
    hurt = any(tensor.damage is not None for tensor in found.tensors)
    columns = ["block", "tensors", "elements", "bytes", "bits each"]
    table = _table(*columns, *(["damage", "worst"] if hurt else []))
    groups: dict[str, list[Tensor]] = {}
    for tensor in found.tensors:
        groups.setdefault(tensor.part, []).append(tensor)
    order = {part: i for i, part in enumerate(found.parts)}
    for part, tensors in sorted(groups.items(), key=lambda item: order.get(item[0], -1)):
        table.add_row(
            part,
            str(len(tensors)),
            words.count(_elements(tensors)),
            _size(tensors),
            _bits(tensors),
            *(_damage(tensors, part) if hurt else []),
        )
    return table


def _damage(tensors: list[Tensor], part: str) -> list[str]:
    """The mean over a block's coded tensors, and the worst of them."""
    coded = [(tensor.damage, tensor.name) for tensor in tensors if tensor.damage is not None]
    if not coded:
        return ["", ""]
    worst, name = max(coded)
    return [words.share(sum(d for d, _ in coded) / len(coded)), f"{words.share(worst)} {name.removeprefix(f'{part}.')}"]


def _tensors(found: Inspection) -> Table:
    hurt = any(tensor.damage is not None for tensor in found.tensors)
    table = _table("tensor", "kind", "shape", "stored as", "bytes", "bits each", *(["damage"] if hurt else []))
    for tensor in found.tensors:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        row = [tensor.name, tensor.kind, shape, tensor.code, _size([tensor]), _bits([tensor])]
        if hurt:
            row.append("" if tensor.damage is None else words.share(tensor.damage))
        table.add_row(*row)
    return table


def _strange(found: Inspection) -> list[RenderableType]:
    """What is not understood, or "all is"."""
    lines: list[RenderableType] = []
    reasons = {name: f"a parameter of {kind}" for name, kind in found.unknown.items()}
    for what, _, why in words.grouped(reasons):
        lines.append(Text(f"not understood, stays dense: {what}, {why}", "yellow"))
    for what, _, why in words.grouped(dict.fromkeys(found.unused, "the network has no such tensor; kept as it is")):
        lines.append(Text(f"not used: {what}, {why}", "yellow"))
    if not lines:
        lines.append(Text("every matrix is understood", "dim"))
    return lines


def _history(found: Inspection) -> RenderableType:
    lines = Text()
    for i, step in enumerate(found.steps):
        lines.append("made by  " if i == 0 else "         ", "dim")
        lines.append(str(step["method"]), "bold")
        lines.append(f"  {words.settings(step['settings'])}\n")
    for entry in found.calibration:
        shape = " x ".join(map(str, entry.get("shape", ())))
        lines.append("data     ", "dim")
        lines.append(f"{entry.get('name')}, {shape}\n")
    if found.recipe is not None:
        lines.append("again    ", "dim")
        lines.append(f"rarefy compress MODEL OUT -r {found.recipe}", "cyan")
    lines.rstrip()
    return lines


def _side_files(found: Inspection) -> Text:
    total = human(sum(found.side_files.values()))
    names = list(found.side_files)
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return Text(f"beside the weights, not counted: {shown} ({total})", "dim")


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.elements for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int | None:
    sizes = [tensor.bytes for tensor in tensors]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _size(tensors: list[Tensor]) -> str:
    size = _bytes(tensors)
    return "" if size is None else human(size)


def _bits(tensors: list[Tensor]) -> str:
    size, elements = _bytes(tensors), _elements(tensors)
    return "" if size is None or not elements else f"{bpw(size, elements):.2f}"


def _share(tensors: list[Tensor], total: int) -> str:
    size = _bytes(tensors)
    return "" if size is None or not total else f"{100 * size / total:.1f} %"


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    numbers = {"tensors", "elements", "bytes", "share", "bits each", "damage"}
    for head in heads:
        right = head in numbers
        table.add_column(head, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table
