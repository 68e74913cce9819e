"""Files that a stranger might send: each attack by name, made on the spot. `test_attacks` opens them all."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.files.safetensors import Payload, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[[Path], Any]

MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"

KINDS = (
    "truncated", "re-ordered", "overlapping", "oversized", "lying", "gigantic", "duplicate or cyclic", "endless states",
    "path tricks",
)  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """kind: of KINDS. make: writes it into an empty folder. told: part of the refusal."""

    kind: str
    make: Make
    told: str


ATTACKS: dict[str, Attack] = {}


def attack(kind: str, name: str, make: Make, told: str) -> None:
    """Add one."""
    assert kind in KINDS
    assert name not in ATTACKS
    ATTACKS[name] = Attack(kind, make, told)


def payload(data: bytes) -> Payload:
    """A tensor of bytes."""
    return Payload("U8", (len(data),), len(data), [data])


def spread(*records: bytes) -> Make:
    """The spread layout."""
    items = [(f"p{i}", payload(data)) for i, data in enumerate(records)]
    return lambda folder: write(folder / MODEL, items, {"format": "pt", "rarefy": "1"})


for module in ("headers", "shards", "tables", "records", "coders", "networks"):
    importlib.import_module(f"attacks.{module}")
