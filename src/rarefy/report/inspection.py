"""What is in a network: where its bytes are, what is understood of it and what is not."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.codes.base import kind_of
from rarefy.codes.dtypes import BY_NUMBER, dtype_of
from rarefy.families import Segments, outside
from rarefy.files.container import Reader
from rarefy.model import shape_of
from rarefy.skeletons import TransformersSkeleton
from rarefy.units import bpw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rarefy.codes import Node
    from rarefy.files.head import Head
    from rarefy.model import Model

AROUND = "outside the blocks"
_PLANE = re.compile(r"\.?plane\d+$")


@dataclass(frozen=True)
class Tensor:
    """One tensor of the files.

    part: the block it belongs to. kind: linear, convolution, embedding; vector; unknown matrix; buffer; unused.
    code: how it is stored. bytes: None where the file's own are not known. damage: by all steps, None if none.
    """

    name: str
    part: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    code: str
    bytes: int | None
    damage: float | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inspection:
    """A network, looked at without running it.

    roles: bytes of an artifact's files by what they say; steps: its history; original: bytes before it.
    """

    source: str
    architecture: str
    family: str | None
    weights: int
    bytes: int
    parts: tuple[str, ...]
    whole_because: str
    tensors: tuple[Tensor, ...]
    ties: Mapping[str, str]
    unknown: Mapping[str, str]
    side_files: Mapping[str, int]
    roles: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    original: int | None = None
    calibration: tuple[Mapping[str, Any], ...] = ()
    recipe: str | None = None

    @property
    def bpw(self) -> float:
        return bpw(self.bytes, self.weights) if self.weights else math.nan

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors of the files that the network does not have."""
        return tuple(tensor.name for tensor in self.tensors if tensor.kind == "unused")

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        tensors = [{**asdict(t), "shape": list(t.shape)} for t in self.tensors]
        own = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("tensors", "calibration")}
        data = [{"name": entry.get("name"), "shape": entry.get("shape")} for entry in self.calibration]
        bits = None if math.isnan(self.bpw) else self.bpw
        extra = {"bpw": bits, "unused": list(self.unused), "calibration": data, "tensors": tensors}
        return {key: _plain(value) for key, value in own.items()} | extra


def inspected(source: str, model: Model, total: int) -> Inspection:
    """Look at a model. total: bytes of its weight files."""
    segments = Segments(model)
    artifact = _reader(source, model)
    heads = {} if artifact is None else {name: artifact.head(name) for name in artifact.names()}
    gguf = Path(source).suffix == ".gguf"
    tensors = _tensors(model, segments, heads, gguf)
    unknown = outside(model.skeleton.empty, model.skeleton.ties)
    found = Inspection(
        source=source,
        architecture=_architecture(model),
        family=segments.family.name(segments.module) if segments.family else None,
        weights=model.weights,
        bytes=total,
        parts=tuple(segments.blocks),
        whole_because=segments.reason,
        tensors=tensors,
        ties=dict(model.skeleton.ties),
        unknown=unknown,
        side_files=_side_files(model),
        roles=_gguf_roles(source, total) if gguf else _roles(heads, total),
        steps=tuple(asdict(step) for step in model.history),
        original=model.sections.get("original", {}).get("bytes"),
        calibration=tuple(model.sections.get("calibration", ())),
        recipe=_recipe(artifact),
    )
    if artifact is not None:
        artifact.close()
    return found


def _reader(source: str, model: Model) -> Reader | None:
    """The records of an artifact, None for other networks."""
    if not model.history and "original" not in model.sections:
        return None
    path = source if Path(source).exists() else source.partition("@")[2]
    return Reader(path)


def _recipe(artifact: Reader | None) -> str | None:
    """Where the recipe of an artifact stands."""
    path = None if artifact is None else artifact.files.folder / "recipe.toml"
    return str(path) if path is not None and path.is_file() else None


def _architecture(model: Model) -> str:
    if isinstance(model.skeleton, TransformersSkeleton):
        return model.skeleton.architecture
    return type(model.skeleton.empty).__name__


def _side_files(model: Model) -> dict[str, int]:
    folder = model.skeleton.folder
    if folder is None:
        return {}
    return {path.as_posix(): (folder / path).stat().st_size for path in model.skeleton.side_files()}


def _tensors(model: Model, segments: Segments, heads: Mapping[str, Head], gguf: bool) -> tuple[Tensor, ...]:
    kind_of_key, part_of_key = _kinds(model, segments), _parts(model, segments)
    damage: Counter[str] = Counter()
    for step in model.history:
        damage.update(step.damage)
    made = []
    for key in model.codes:
        shape, dtype = shape_of(model.codes, key), model.dtypes[key]
        size: int | None = math.prod(shape) * dtype_of(dtype).size
        code = f"dense {dtype}"
        if key in heads:
            size, code = heads[key].total, code_name(heads[key].node)
        elif gguf:  # opened by dequantizing it: the file's own sizes and types are known by their sums only
            size, code = None, "GGUF blocks"
        hurt = damage.get(key)
        made.append(Tensor(key, part_of_key(key), kind_of_key(key), shape, dtype, code, size, hurt))
    return tuple(made)


def _kinds(model: Model, segments: Segments) -> Callable[[str], str]:
    sites = {place.parameter: str(place.kind) for places in segments.places() for place in places}
    owner = model.skeleton.ties
    parameters = {name: p.dim() for name, p in model.skeleton.empty.named_parameters(remove_duplicate=False)}

    def kind(key: str) -> str:
        name = model.names.get(key)
        if name is None:
            return "unused"
        name = owner.get(name, name)
        if name in sites:
            return sites[name]
        if name not in parameters:
            return "buffer"
        return "unknown matrix" if parameters[name] >= 2 else "vector"

    return kind


def _parts(model: Model, segments: Segments) -> Callable[[str], str]:
    def part(key: str) -> str:
        name = model.names.get(key, "")
        if not segments.blocks:
            return segments.names[0]
        return next((block for block in segments.blocks if name.startswith(f"{block}.")), AROUND)

    return part


def code_name(node: Node) -> str:
    """A code in words: `dense BF16`, `4-bit grid, group 64`, `sparse 4-bit grid, group 64`."""
    kind = kind_of(node).__name__.lower()
    if kind == "dense" and node.settings:
        return f"dense {BY_NUMBER[node.settings[0]].name}"
    if kind == "grid":
        bits, group = node.settings[:2]
        return f"{bits}-bit grid, group {group}"
    return " ".join([kind, *map(code_name, node.children)])


def _roles(heads: Mapping[str, Head], total: int) -> dict[str, int]:
    """Bytes of an artifact's weight files by role; they sum up to `total`."""
    if not heads:
        return {}
    roles: Counter[str] = Counter()
    for head in heads.values():
        dense = kind_of(head.node).__name__ == "Dense"
        for name, stream in zip(head.names, head.streams, strict=False):
            role = _PLANE.sub("", name) or "values"
            roles["dense weights" if dense else role] += stream.coded
            roles["record heads"] -= stream.coded if stream.inline is not None else 0
        roles["record heads"] += head.size
    roles["file headers"] = total - sum(head.total for head in heads.values())
    return dict(roles.most_common())


def _gguf_roles(source: str, total: int) -> dict[str, int]:
    """Bytes of a GGUF file, its tokenizer aside, by element type."""
    from gguf import GGUFReader

    roles: Counter[str] = Counter()
    for tensor in GGUFReader(source).tensors:
        roles[tensor.tensor_type.name] += int(tensor.n_bytes)
    roles["file headers"] = total - sum(roles.values())
    return dict(roles.most_common())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if hasattr(value, "items") else value
