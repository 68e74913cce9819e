"""Which network is to run in which engine, as the command line names them: `MODEL`, `MODEL@onnx`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rarefy.errors import UsageError
from rarefy.opening import factory_in

RUNNERS = Path(__file__).parent / "runners"


@dataclass(frozen=True)
class Engine:
    """Who runs networks. package, module: what pip and Python call it; runner: its file in `runners`; file: ending of
    the one file that it opens, "" where it opens whatever Rarefy or transformers does; tokenizes: its files have a
    tokenizer, and it reads text."""

    package: str
    module: str
    runner: str
    file: str = ""
    tokenizes: bool = False


ENGINES: Final = {
    "transformers": Engine("transformers", "transformers", "transformers.py"),
    "packed": Engine("transformers", "transformers", "packed.py"),
    "onnx": Engine("onnxruntime", "onnxruntime", "onnx.py", ".onnx"),
    "llama.cpp": Engine("llama-cpp-python", "llama_cpp", "llama_cpp.py", ".gguf", tokenizes=True),
}

DTYPES: Final = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Contender:
    """A network in an engine.

    name: as the user wrote it; source: what the engine opens; dtype: in which torch computes; chosen: the engine is
    the user's choice.
    """

    name: str
    source: str
    engine: str
    dtype: str
    chosen: bool = False


def contender(name: str, dtype: str = "float32") -> Contender:
    """What `MODEL`, `MODEL@ENGINE` or `MODEL@transformers:bfloat16` names; without an engine by what MODEL is.

    Raises UsageError when it is not there, or is nothing that the engine opens.
    """
    model, _, words = name.rpartition("@")
    engine, _, own = words.partition(":")
    if engine not in ENGINES:  # what stands after the @ belongs to the network, as in pkg.mod:factory@weights
        model, engine, own = name, "", ""
    if own and (own not in DTYPES or engine != "transformers"):
        raise UsageError(f"{name} is not understood", f"{engine}:{own}", f"write @transformers:{DTYPES[1]}")
    path, chosen = Path(model), bool(engine)
    if not path.exists() and not factory_in(model):
        remedy = "give a directory, a .gguf, an .onnx, or pkg.mod:factory[@weights]"
        raise UsageError(f"{model} does not exist", remedy=remedy)
    engine = engine or _by_what_it_is(path)
    ending = ENGINES[engine].file
    return Contender(name, str(_file(path, ending, engine)) if ending else model, engine, own or dtype, chosen)


def _by_what_it_is(path: Path) -> str:
    if path.is_dir() and not any(path.glob("*.safetensors")):
        for name, engine in ENGINES.items():
            if engine.file and any(path.glob(f"*{engine.file}")):
                return name
    return next(
        (name for name, engine in ENGINES.items() if engine.file and path.suffix == engine.file), "transformers"
    )


def _file(path: Path, ending: str, engine: str) -> Path:
    """The one file of a folder, or the one called model."""
    found = sorted(path.glob(f"*{ending}")) if path.is_dir() else [path] if path.suffix == ending else []
    usual = path / f"model{ending}"
    if usual not in found and len(found) != 1:
        why = f"it has {len(found)} of them" if found else f"it has no {ending}"
        remedy = f"name one of its files, or write one with `rarefy export --to {ending[1:]}`"
        raise UsageError(f"{engine} cannot run {path}", why, remedy)
    return usual if usual in found else found[0]


def interpreter(engine: str, others: Sequence[str]) -> str:
    """A Python that has the engine: this one, or the first of `others`. Raises UsageError when none has."""
    known = ENGINES[engine]
    if importlib.util.find_spec(known.module):
        return sys.executable
    for other in others:
        try:
            found = subprocess.run(  # noqa: S603 - the user's own interpreter
                [other, "-c", f"import {known.module}"], capture_output=True, check=False, cwd=RUNNERS.root
            )
        except OSError as error:
            raise UsageError(f"--python {other} cannot be run", str(error.strerror)) from None
        if found.returncode == 0:
            return other
    where = f"here or in the environment of {', '.join(others)}" if others else "here"
    raise UsageError(f"{known.package} is not installed {where}", remedy="--python names another interpreter")
