"""Artifacts in torch, their linear layers and look-ups at 4 or 8 bits in memory."""

from __future__ import annotations

from typing import Any

from rarefy.engines.packed import packed
from rarefy.engines.runners.transformers import Torch
from rarefy.engines.runners.transformers import imports as imports
from rarefy.opening import open_model


def load(asked: dict[str, Any]) -> Torch:
    """The network `asked["source"]`."""
    module: Any = packed(open_model(asked["source"]), asked["device"])
    return Torch(module, asked, ", ".join(sorted(module.packing.kernels)) or "nothing packed")
