"""Opening networks: Hugging Face directories, GGUF files, artifacts, factories and modules."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy import edits
from rarefy.errors import FormatError, UsageError
from rarefy.files import config as configs
from rarefy.files import manifest
from rarefy.files.container import Reader, holds_records
from rarefy.files.directory import TensorDirectory
from rarefy.model import LazyCodes, Model, Step, dense_codes
from rarefy.skeletons import FactorySkeleton, GGUFSkeleton, ModuleSkeleton, Skeleton, TransformersSkeleton

if TYPE_CHECKING:
    from torch import nn

    from rarefy.files.head import Head

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*(@.+)?$")


def open_model(source: str | Path | nn.Module, *, module: nn.Module | None = None) -> Model:
    """The network that `source` names.

    source: a Hugging Face directory, a .gguf file, an artifact, `pkg.mod:factory[@weights.safetensors]`, or a module
        in memory (left as it is).
    module: for an artifact of a module that had no factory, a module of the same form.

    Raises UsageError when `source` is none of these, FormatError when what it names is damaged or incomplete.
    """
    if not isinstance(source, str | Path):
        return Model.from_module(source)
    path = Path(source)
    if path.is_dir():
        if is_artifact(path):
            return _artifact(path, module)
        return _directory(path)
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path)
    if isinstance(source, str) and factory_in(source):
        return _factory(source)
    if path.exists():
        raise UsageError(
            f"{source} is not a network",
            "a network is a directory, a .gguf, or pkg.mod:factory[@weights.safetensors]",
        )
    raise UsageError(f"{source} does not exist", remedy="give a directory, a .gguf, or pkg.mod:factory[@weights]")


def is_artifact(path: Path) -> bool:
    """Whether the weights of a directory are records that Rarefy wrote. Raises FormatError when they are damaged."""
    has_weights = path.is_dir() and (any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")))
    return has_weights and holds_records(path)


def factory_in(source: str) -> str:
    """The factory of `pkg.mod:factory[@weights]`, "" where `source` names none."""
    return source.partition("@")[0] if _FACTORY.match(source) and not Path(source).exists() else ""


def _directory(path: Path) -> Model:
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path} has no config.json",
            remedy="if you have the code of its module, give pkg.mod:factory@weights.safetensors",
        )
    if not list(path.glob("*.safetensors")) and not list(path.glob("*.safetensors.index.json")):
        other = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5"))
        why = f"it has {other[0]}, which Rarefy does not read (pickles can run code)" if other else "it has no weights"
        raise UsageError(
            f"{path} has no safetensors", why, "load it with transformers and save_pretrained it to a new directory"
        )
    tensors = TensorDirectory(path)
    skeleton = TransformersSkeleton.at(path, {name: math.prod(entry.shape) for name, entry in tensors.entries.items()})
    configs.refuse_quantized(configs.read(path), path)
    return _dense(skeleton, tensors, str(path))


def _dense(skeleton: Skeleton, tensors: TensorDirectory, source: str) -> Model:
    codes = tensors.codes()
    codes |= dense_codes(skeleton.counters(codes))
    return Model.of(skeleton, codes, {key: code.dtype.name for key, code in codes.items()}, source)


def _gguf(path: Path) -> Model:
    skeleton, state = GGUFSkeleton.at(path)
    codes = dense_codes(state)
    return Model.of(skeleton, codes, {key: code.dtype.name for key, code in codes.items()}, str(path))


def _factory(source: str) -> Model:
    factory, _, weights = source.partition("@")
    skeleton = FactorySkeleton(factory)
    if not weights:
        codes = dense_codes(skeleton.make().state_dict())
        return Model.of(skeleton, codes, {key: code.dtype.name for key, code in codes.items()}, source)
    path = Path(weights)
    if not path.exists():
        raise UsageError(f"{weights} does not exist")
    if is_artifact(path):
        reader = Reader(path)
        return _coded(skeleton, reader, _heads(reader), manifest.read(path), source)
    return _dense(skeleton, TensorDirectory(path), source)


def _artifact(path: Path, module: nn.Module | None) -> Model:
    sections = manifest.read(path)
    described = sections.get("model")
    described = described if isinstance(described, dict) else {}
    kind = described.get("kind")
    skeleton: Skeleton
    reader = Reader(path)
    heads = _heads(reader)
    if module is not None:
        skeleton = ModuleSkeleton(module)
    elif kind == "transformers":
        skeleton = TransformersSkeleton.at(path, {name: math.prod(head.shape) for name, head in heads.items()})
    elif kind == "factory":
        # What a file names is never imported: only the user can say which code to run.
        factory = described.get("factory")
        raise UsageError(
            f"{path} holds the weights of a module that {factory} makes",
            "files do not decide which code runs",
            f"if you trust that code, give {factory}@{path}",
        )
    elif kind == "module":
        raise UsageError(
            f"{path} holds the weights of a {described.get('type')}, not how to build it",
            remedy="open it in Python: rarefy.open(path, module=...)",
        )
    else:
        raise FormatError(f"{path}/manifest.json does not say what network this is")
    return _coded(skeleton, reader, heads, sections, str(path))


def _heads(reader: Reader) -> dict[str, Head]:
    return {name: reader.head(name) for name in reader.names()}


def _coded(skeleton: Skeleton, reader: Reader, heads: dict[str, Head], sections: dict[str, Any], source: str) -> Model:
    codes = LazyCodes(lambda name: reader.code(name)[0], {name: head.shape for name, head in heads.items()})
    dtypes = {name: head.dtype for name, head in heads.items()}
    try:
        history = tuple(Step(**step) for step in sections.get("history", []))
    except TypeError as error:
        raise FormatError(f"{source}: the manifest's history cannot be read", str(error)) from None
    kept = {key: sections[key] for key in ("calibration", "original", "predicted") if key in sections}
    edited = edits.read(sections.get("edits"))
    model = Model.of(skeleton, codes, dtypes, source, history=history, sections=kept, edits=edited)
    if unknown := edited.keys() - model.names.keys():
        raise FormatError(f"{source}: an edit is of {min(unknown)}, which the network has not")
    return model
