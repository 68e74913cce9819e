"""Experts that calibration seldom chose borrow what it saw of the others in their layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_EXPERT = re.compile(r"^(.+\.experts)\.\d+\.(.+)$")


def peers(names: Iterable[str]) -> dict[str, list[str]]:
    """Of every expert's matrix, those that do the same in the other experts of its layer, itself among them."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        match = _EXPERT.match(name)
        if match:
            groups[match.groups()].append(name)
    return {name: group for group in groups.values() for name in group}
