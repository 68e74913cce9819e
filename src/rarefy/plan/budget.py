"""Budgets: how large the weight files may be, said in one of several ways, and the recipe that is held to it."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from rarefy.errors import UsageError
from rarefy.method import Budgeted, Method
from rarefy.plan.data import reads_tokens
from rarefy.recipe import Recipe

if TYPE_CHECKING:
    from rarefy.model import Model

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str) -> int:
    """Bytes of `60MB`, `1.5 GB` or `500000`; units are powers of 1000. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS:
        raise UsageError(f"{text!r} is no size", remedy="write bytes, or a number with KB, MB or GB, such as 60MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def budget(model: Model, *, size: str | int | None, bpw: float | None, ratio: float | None) -> int | None:
    """Bytes that the weight files may have, or None where nothing was said of it.

    size: those bytes. bpw: bits a weight of the whole file. ratio: how many times smaller than with 2 bytes a weight
    for networks that read tokens, 4 for others.

    Raises UsageError when more than one is given, or one that means nothing.
    """
    given = [name for name, value in (("size", size), ("bpw", bpw), ("ratio", ratio)) if value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are both given", remedy="give one budget")
    if bpw is not None:
        made = bpw * model.weights / 8
    elif ratio is not None:
        made = (2 if reads_tokens(model) else 4) * model.weights / ratio if ratio > 0 else 0
    else:
        made = parse_size(size) if isinstance(size, str) else float(size or 0)
    if not made >= 1:
        raise UsageError(f"{given[0]} leaves no byte", remedy="give a positive number")
    return int(made)


def held(recipe: Recipe, size: int) -> Recipe:
    """The recipe whose one method that can be held to a size has this one. Raises UsageError when there is not one."""
    methods = recipe.flat()
    able = [method for method in methods if isinstance(method, Budgeted)]
    if len(able) != 1:
        names = " and ".join(method.name() for method in able)
        raise UsageError(
            f"this recipe has {names or 'no method'} to hold to a size",
            remedy="take quantize.entropy for one of its methods, once",
        )
    kept: list[Method] = [dataclasses.replace(m, size=size) if isinstance(m, Budgeted) else m for m in methods]
    return Recipe(tuple(kept), recipe.coder)
