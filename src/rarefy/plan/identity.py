"""What decides a run's result, as one hash: inputs, recipe, seed, package source, library versions, threads."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes import Dense
from rarefy.skeletons import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rarefy.model import Model
    from rarefy.plan.data import Calibration
    from rarefy.recipe import Recipe

LIBRARIES = ("numpy", "scipy", "torch", "transformers", "tokenizers")
"""Whose versions can change the bytes of a result."""


def versions() -> dict[str, str]:
    """Library -> version, Rarefy's own first."""
    import rarefy

    return {"rarefy": rarefy.__version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}


@functools.cache
def source_digest() -> str:
    """SHA-256 over the package's own Python source, as it was when this process first asked."""
    root = Path(__file__).parent.parent
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()


def foreign_source(kinds: Iterable[type]) -> dict[str, str]:
    """SHA-256 of the files that define classes of the user's own: modules of a factory, methods."""
    found = {}
    for name in {kind.__module__ for kind in kinds}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.partition(".")[0] not in {"rarefy", *LIBRARIES} and file is not None and Path(file).is_file():
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def model_digest(model: Model, threads: int = 1) -> str:
    """SHA-256 over a network's form, tensors in their order, history and what its artifact said of it."""
    # Of a module only its type and the text it shows tell, say, a stride of 2 from a stride of 1.
    form = re.sub(r" at 0x[0-9a-f]+", "", repr(model.skeleton.empty))
    foreign = foreign_source(type(layer) for layer in model.skeleton.empty.modules())
    held = [[asdict(step) for step in model.history], dict(model.sections)]
    with ThreadPoolExecutor(threads) as pool:
        tensors = list(pool.map(functools.partial(_tensor_digest, model), model.codes))
    return _hashed([digest_of(model.skeleton), form, foreign, held, tensors])


def _tensor_digest(model: Model, key: str) -> list[Any]:
    code = model.codes[key]
    sha = hashlib.sha256()
    if isinstance(code, Dense):
        sha.update(_bytes(code.raw()))
    else:
        sha.update(repr(code.node()).encode())
        for stream in code.streams():
            sha.update(_bytes(stream.symbols))
    return [key, model.dtypes[key], list(code.shape), sha.hexdigest()]


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def data_digest(data: Calibration | None) -> str:
    """SHA-256 over the calibration inputs, their labels, and what the manifest says of them."""
    if data is None:
        return ""
    arrays = [data.inputs] if data.labels is None else [data.inputs, data.labels]
    held = [[str(array.dtype), list(array.shape), hashlib.sha256(_bytes(array)).hexdigest()] for array in arrays]
    return _hashed([data.section(), held])


def run_key(model: Model, recipe: Recipe, data: Calibration | None, settings: dict[str, Any]) -> str:
    """The hash of a run. settings: seed, threads, device, dtype."""
    methods = foreign_source(type(method) for method in recipe.methods)
    digest = model_digest(model, settings["threads"])
    return _hashed([digest, recipe.to_toml(), methods, data_digest(data), settings, versions(), source_digest()])


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
