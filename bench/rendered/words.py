"""Cells, tables and machines, in words."""

from __future__ import annotations

from typing import Any

Row = list[Any]


def table(head: Row, rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def interval(figure: dict[str, float], digits: int) -> str:
    """`0.356 [0.344, 0.369]`."""
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def on(result: dict[str, Any]) -> str:
    """The machine, in words."""
    machine, found = result["machine"], result["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in found.items())
    instructions = f" ({machine['instructions']})" if machine.get("instructions") else ""
    return f"{machine['cpu']}{instructions}, {machine['cores']} cores; {libraries}."


def spread(found: dict[str, Any], unit: float, digits: int) -> str:
    """`8.51 ± 0.04`, in units."""
    deviation = "" if found["deviation"] is None else f" ± {found['deviation'] * unit:.{digits}f}"
    return f"{found['mean'] * unit:.{digits}f}{deviation}"


def times(figure: dict[str, float], factor: float) -> dict[str, float]:
    """A figure in other units."""
    return {key: value * factor for key, value in figure.items()}
