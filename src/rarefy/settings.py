"""Settings of methods: checked when built, parsed from text, written back."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import sys
import types
import typing
from typing import Any, TypeVar

from rarefy.errors import UsageError

T = TypeVar("T")

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def fields(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Name -> (field, resolved type) of a dataclass; class variables, whose types may not be importable, stay out."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        own = {f.name: f.type for f in dataclasses.fields(kind) if f.name in inspect.get_annotations(base)}
        names = vars(sys.modules[base.__module__])
        hints |= typing.get_type_hints(types.SimpleNamespace(__annotations__=own), names)
    return {f.name: (f, hints[f.name]) for f in dataclasses.fields(kind)}


def check(method: Any) -> None:
    """Raise UsageError when a setting has the wrong type or lies outside its field's bounds or choices."""
    for name, (field, kind) in fields(type(method)).items():
        value = getattr(method, name)
        where = f"{type(method).name()}: {name}={value!r}"
        if not _is(value, kind):
            raise UsageError(where, f"it must be {describe(kind)}")
        low, high, choices = (field.metadata.get(k) for k in ("low", "high", "choices"))
        if choices is not None and value not in choices:
            raise UsageError(where, f"it must be one of {', '.join(map(str, choices))}")
        for item in value if isinstance(value, tuple) else (value,):
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if number and not math.isfinite(item):
                raise UsageError(where, "it must be finite")
            if number and low is not None and item < low:
                raise UsageError(where, f"it must be at least {low}")
            if number and high is not None and item > high:
                raise UsageError(where, f"it must be at most {high}")


def build(kind: type[T], given: dict[str, Any], what: str) -> T:
    """A dataclass from settings that may be text. Raises UsageError for unknown names and wrong values."""
    known = fields(kind)
    values = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{what} has no setting {name!r}", remedy=f"{hint}it has {', '.join(known)}")
        values[name] = convert(value, known[name][1], f"{what}: {name}")
    return kind(**values)


def convert(value: Any, kind: Any, where: str) -> Any:
    """Text, or a TOML value, as a value of `kind`. Raises UsageError when it is none."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if isinstance(value, str) and type(None) in kinds and value.lower() in ("none", ""):
        return None
    wanted = next(k for k in kinds if k is not type(None))
    try:
        return _convert(value, wanted)
    except (KeyError, ValueError, TypeError):
        raise UsageError(f"{where}={value!r}", f"it must be {describe(kind)}") from None


def _convert(value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            listed = value[1:-1] if value.startswith("[") and value.endswith("]") else value
            value = split_outside_brackets(listed)
        return tuple(_convert(item, typing.get_args(kind)[0]) for item in value)
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            return _fail(value)
        return int(value)
    if kind is float:
        return _fail(value) if isinstance(value, bool) else float(value)
    if kind is str and not isinstance(value, str):
        return _fail(value)
    return kind(value)


def split_outside_brackets(text: str) -> list[str]:
    """Parts between the commas that stand outside square brackets, stripped, empty ones left out."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _fail(value: Any) -> Any:
    raise ValueError(value)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_is(value, k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, types.UnionType):
        return " or ".join(describe(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"a list, each {describe(typing.get_args(kind)[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "none"}.get(
        kind, str(kind)
    )
