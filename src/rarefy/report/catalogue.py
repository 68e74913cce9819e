"""Methods and their settings, as JSON and as tables; all of it comes from their dataclass fields."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rarefy import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rarefy.method import Method


def summary(kind: type[Method]) -> str:
    """The first sentence of a method's docstring."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def described(kind: type[Method]) -> dict[str, Any]:
    """A method as a JSON value."""
    return {
        "name": kind.name(),
        "summary": summary(kind),
        "needs": sorted(statistic.NAME for statistic in kind().needs),
        "settings": [_setting(name, *found) for name, found in _ordered(kind)],
    }


def listing(kinds: Iterable[type[Method]]) -> Group:
    """One line a method."""
    table = _table("method", "needs", "what it does")
    for kind in kinds:
        needs = ", ".join(sorted(statistic.NAME for statistic in kind().needs)) or "no data"
        table.add_row(Text(kind.name(), "bold"), needs, summary(kind))
    return Group(table, "", Text("`rarefy methods NAME` shows a method's settings.", "dim"))


def settings_of(kind: type[Method]) -> Group:
    """A method's page."""
    doc = (inspect.getdoc(kind) or "").split("\n\n")
    paragraphs = [Text(" ".join(paragraph.split())) for paragraph in doc]
    table = _table("setting", "type", "default", "bounds", "what it is")
    shown = [_setting(name, *found) for name, found in _ordered(kind)]
    for one in shown:
        table.add_row(Text(one["name"], "bold"), one["type"], _value(one["default"]), _bounds(one), one["help"])
    own = [one for one in shown if one["name"] not in ("include", "exclude")][:2]
    words = ",".join(f"{one['name']}={_value(one['default'])}" for one in own)
    usage = Text(f"rarefy compress MODEL OUT -m {kind.name()}" + (f":{words}" if words else ""), "cyan")
    return Group(Text(kind.name(), "bold"), *paragraphs, "", table, "", usage)


def _ordered(kind: type[Method]) -> list[tuple[str, tuple[dataclasses.Field[Any], Any]]]:
    """A method's own settings first, those that all share last."""
    return sorted(settings.fields(kind).items(), key=lambda item: item[1][0].kw_only is True)


def _setting(name: str, field: dataclasses.Field[Any], kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "type": _type(kind),
        "default": None if field.default is dataclasses.MISSING else field.default,
        "help": field.metadata.get("help", ""),
    }
    for key in ("low", "high", "choices"):
        if field.metadata.get(key) is not None:
            found[key] = field.metadata[key]
    return found


def _type(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_type(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "list"
    return {int: "integer", float: "number", bool: "true/false", str: "text", type(None): "none"}.get(kind, str(kind))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(str, value)) + "]"
    return "none" if value is None else str(value)


def _bounds(one: dict[str, Any]) -> str:
    if "choices" in one:
        return ", ".join(map(str, one["choices"]))
    low, high = one.get("low"), one.get("high")
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(head, no_wrap=head in ("method", "setting", "type", "default"))
    return table
