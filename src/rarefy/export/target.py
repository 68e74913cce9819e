"""What a target is: a frozen set of settings that says what its files can hold, writes them, and who can open them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy import settings
from rarefy.codes import Dense
from rarefy.errors import UsageError
from rarefy.method import parse_pairs
from rarefy.model import Model

if TYPE_CHECKING:
    from rarefy.codes import Code
    from rarefy.export.proof import Engine
    from rarefy.measure.tasks import Network
    from rarefy.progress import Progress


@dataclass(frozen=True)
class Held:
    """A tensor as a target's file holds it.

    code: decodes to what an engine makes of it. form: in words, `Q4_0` or `4 bits, groups of 64`.
    why: why it has another form than the others of its kind, or "".
    """

    code: Code
    form: str
    why: str = ""


@dataclass(frozen=True)
class Conversion:
    """A network as a target holds it.

    model: decodes to what an engine computes with.
    held: file key -> how it is held; errors: of those that are not held exactly, the relative squared error.
    settings: what the target chose for the whole network, for its writer and for messages.
    data: what is to go through both, for a writer that must know what the network reads.
    """

    model: Model
    held: Mapping[str, Held]
    errors: Mapping[str, float]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Any = None


@dataclass(frozen=True)
class Target(ABC):
    """A kind of files. Its fields are what can be set: `--to NAME:field=value,...`.

    runs_edits: whether its engines quantize inputs where the network does.
    """

    runs_edits: ClassVar[bool] = False

    def __post_init__(self) -> None:
        settings.check(self)

    @classmethod
    def name(cls) -> str:
        """What the command line calls it: its module's name."""
        return cls.__module__.rpartition(".")[2].replace("_", "-")

    @abstractmethod
    def convert(self, model: Model, progress: Progress) -> Conversion:
        """The nearest that the files can hold. Raises UsageError for what they cannot hold at all."""

    @abstractmethod
    def write(self, conversion: Conversion, folder: Path, progress: Progress) -> None:
        """Write the files to `folder`, which exists and is empty. Raises ResourceError."""

    def rounded(self, folder: Path) -> Network | None:
        """The network in `folder` as its engine runs it, where that rounds activations too: a part of what conversion
        costs, and of no proof."""
        return None

    @abstractmethod
    def engines(self, conversion: Conversion) -> list[Engine]:
        """Who opens the files, the one that says the most about a fault first."""


def converted(model: Model, hold: Callable[[str, Code], Held], progress: Progress, **chosen: Any) -> Conversion:
    """The conversion in which each tensor is held as `hold` of its file key and code says."""
    held: dict[str, Held] = {}
    errors: dict[str, float] = {}
    with progress.task("converting", len(model.codes)) as advance:
        for key in model.codes:
            code = model.codes[key]
            held[key] = hold(key, code)
            error = _error(code, held[key].code)
            if error:
                errors[key] = error
            advance(1)
    codes = {key: each.code for key, each in held.items()}
    return Conversion(dataclasses.replace(model, codes=codes), held, errors, chosen)


def _error(before: Code, after: Code) -> float:
    """|after - before|^2 / |before|^2; nothing that is no number counts."""
    if before is after or (isinstance(before, Dense) and not before.dtype.floating):
        return 0.0
    w, held = before.decode().reshape(-1), after.decode().reshape(-1)
    if np.array_equal(w, held, equal_nan=True):
        return 0.0
    whole = float(np.dot(w, w))
    lost = float(np.sum(np.square(held - w), dtype=np.float64))
    return lost / whole if whole else lost


def dense_in(code: Code, dtype: str) -> Dense:
    """A tensor in another floating type; integers, and what has that type already, bit for bit."""
    if isinstance(code, Dense) and (code.dtype.name == dtype or not code.dtype.floating):
        return code
    return Dense.of(code.decode(), dtype)


def linears(model: Model) -> Iterator[tuple[str, str]]:
    """(file key, module path) of the matrices of linear layers within the network: no embedding, and nothing of the
    head, which is what transformers puts beside the network's body."""
    from torch import nn

    from rarefy.families.base import places

    module: Any = model.skeleton.empty
    find = getattr(module, "get_output_embeddings", None)
    head = find() if find is not None else None
    body = getattr(module, "base_model_prefix", "")
    body = f"{body}." if hasattr(module, body) else ""
    keys = model.keys
    for place in places(module, model.skeleton.ties):
        (path, *others) = place.modules
        layer = module.get_submodule(path)
        if isinstance(layer, nn.Linear) and not others and layer is not head and path.startswith(body):
            yield keys[place.parameter], path


def target(words: str) -> Target:
    """The target that `--to` names: `gguf`, `compressed-tensors:bits=4,group=64`. Raises UsageError."""
    import importlib

    name, _, pairs = words.partition(":")
    if name not in NAMES:
        raise UsageError(f"there is no export to {name}", remedy=f"there are {', '.join(NAMES)}")
    module = importlib.import_module(f"rarefy.export.{name.replace('-', '_')}")
    made: Target = settings.build(module.TARGET, parse_pairs(pairs), name)
    return made


NAMES = ("safetensors", "compressed-tensors", "gguf", "onnx")
