"""What decides a run's result, as one hash: inputs, recipe, seed, package source, library versions, threads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes import Dense
from rarefy.skeletons import digest_of

if TYPE_CHECKING:
    from rarefy.model import Model
    from rarefy.recipe import Recipe

LIBRARIES = ("numpy", "scipy", "torch", "transformers", "tokenizers")
"""Whose versions can change the bytes of a result."""


def versions() -> dict[str, str]:
    """Library -> version, Rarefy's own first."""
    import rarefy

    return {"rarefy": rarefy.__version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def source_digest() -> str:
    """SHA-256 over the package's own Python source."""
    root = Path(__file__).parent.parent
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()


def model_digest(model: Model) -> str:
    """SHA-256 over a network's form, tensors and history."""
    sha = hashlib.sha256(digest_of(model.skeleton).encode())
    for key in sorted(model.codes):
        code = model.codes[key]
        sha.update(json.dumps([key, model.dtypes[key], list(code.shape)]).encode())
        if isinstance(code, Dense):
            sha.update(np.ascontiguousarray(code.raw()).data)
            continue
        sha.update(repr(code.node()).encode())
        for stream in code.streams():
            sha.update(np.ascontiguousarray(stream.symbols).data)
    return sha.hexdigest()


def run_key(model: Model, recipe: Recipe, data: str, settings: dict[str, Any]) -> str:
    """The hash of a run. data: digest of the calibration inputs, or ""; settings: seed, threads, device, dtype."""
    parts = [model_digest(model), recipe.to_toml(), data, settings, versions(), source_digest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
