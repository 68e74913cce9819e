"""Figures as people read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def seconds(value: float) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 03 min`; whole numbers as they are."""
    if value < 9.95 and not isinstance(value, int):
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int) -> str:
    """A large number: `260,032`, `135 million`, `7.24 billion`."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """`1 tensor`, `35 tensors`, `2 matrices`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun[:-1] + 'ces' if noun.endswith('x') else noun + 's'}"


def share(value: float) -> str:
    """A small fraction in percent, to two digits: `0.57 %`."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def pattern(name: str) -> str:
    """A name with its layer numbers left open: `model.layers.*.mlp.up_proj.weight`."""
    return _NUMBER.sub("*", name)


def grouped(reasons: Mapping[str, str]) -> list[tuple[str, list[str], str]]:
    """Names that differ in layer numbers only, and have one reason, as one: (what to call them, names, reason)."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, why in reasons.items():
        found.setdefault((pattern(name), why), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{common} ({len(names)})", names, why)
        for (common, why), names in found.items()
    ]


def settings(values: Mapping[str, Any], defaults: Iterable[str] = ()) -> str:
    """Settings on one line, empty ones and those named in `defaults` left out."""
    skipped = set(defaults)
    shown = {key: value for key, value in values.items() if key not in skipped and value not in ("", None, (), [])}
    return " ".join(f"{key}={_value(value)}" for key, value in shown.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
