"""Recipes: a tuple of methods, itself a method; TOML in and out."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy import settings
from rarefy.entropy.choice import choice
from rarefy.errors import UsageError
from rarefy.joint import apply_jointly
from rarefy.method import Method, PerTensor, parse_pairs
from rarefy.methods import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rarefy.evidence import Evidence, Statistic
    from rarefy.model import Model


@dataclass(frozen=True)
class Recipe(Method):
    """Methods applied in order; adjacent PerTensor ones share a walk over the data.

    coder: what the artifact's streams are written with (`entropy.choice`); a recipe inside another has no say in it.
    """

    methods: tuple[Method, ...] = ()
    coder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self.coder)

    @property
    def statistics(self) -> frozenset[Statistic]:
        """What its methods ask for: empty when it needs no data."""
        return frozenset[Any]().union(*(method.needs for method in self.flat()))

    def flat(self) -> list[Method]:
        """Its methods in order, those of recipes inside it among them."""
        return [one for method in self.methods for one in (method.flat() if isinstance(method, Recipe) else [method])]

    def stages(self) -> list[list[Method]]:
        """Methods that run together."""
        grouped = itertools.groupby(enumerate(self.flat()), lambda im: -1 if isinstance(im[1], PerTensor) else im[0])
        return [[method for _, method in run] for _, run in grouped]

    def apply(self, model: Model, evidence: Evidence, *, seed: int = 0) -> Model:
        for i, stage in enumerate(self.stages()):
            tensors = [method for method in stage if isinstance(method, PerTensor)]
            if tensors:
                model = apply_jointly(tensors, model, evidence, f"walk{i}", seed=seed)
            else:
                model = stage[0].apply(model, evidence, seed=seed)
        return model

    def to_toml(self) -> str:
        """The recipe as TOML, every setting written out; `from_toml` reads it back to an equal recipe."""
        blocks = [] if self.coder is None else [f"coder = {_value(self.coder)}\n"]
        for method in self.flat():
            lines = ["[[method]]", f"name = {_value(method.name())}"]
            lines += [f"{key} = {_value(value)}" for key, value in method.settings().items() if value is not None]
            blocks.append("\n".join(lines) + "\n")
        return "\n".join(blocks)

    @classmethod
    def from_toml(cls, text: str, where: str = "the recipe") -> Recipe:
        """Raises UsageError for what is not a recipe."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{where} is not TOML", str(error)) from None
        extra = set(table) - {"coder", "method"}
        if extra or not isinstance(table.get("method"), list) or not table["method"]:
            why = f"it has {min(extra)!r}" if extra else "it has none"
            raise UsageError(f"{where} must hold [[method]] tables, and may name a coder", why)
        if not isinstance(table.get("coder", ""), str):
            raise UsageError(f"{where}: coder must be text", remedy='write coder = "archive" above the methods')
        methods = []
        for i, entry in enumerate(table["method"]):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise UsageError(f"{where}: method {i + 1} has no name", remedy='write name = "quantize.gptq"')
            methods.append(make(entry["name"], {key: value for key, value in entry.items() if key != "name"}))
        return cls(tuple(methods), table.get("coder"))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """From a file. Raises UsageError when it cannot be read."""
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the recipe {path}", str(error)) from None

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Recipe:
        """From command-line words: `quantize.gptq:bits=4,group=64`, `include=[*.q_proj*,*.k_proj*]`."""
        methods = []
        for argument in arguments:
            name, _, pairs = argument.partition(":")
            methods.append(make(name, parse_pairs(pairs)))
        return cls(tuple(methods))


def make(name: str, given: dict[str, Any]) -> Method:
    """The method called `name` with settings that may be text. Raises UsageError."""
    return settings.build(find(name), given, name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's; TOML wants the delete character escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)
