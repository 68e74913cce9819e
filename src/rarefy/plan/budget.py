"""Budgets: how large the weight files may be or how far the network may go, and the recipe that is held to it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rarefy.errors import UsageError
from rarefy.families import reads_tokens
from rarefy.method import Budgeted, Latent, Method
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


@dataclass(frozen=True)
class Budget:
    """One of two. size: bytes that all weight files may have. max_kl: nats of predicted divergence."""

    size: int | None = None
    max_kl: float | None = None


def budget(
    model: Model,
    *,
    size: str | int | None = None,
    bpw: float | None = None,
    ratio: float | None = None,
    max_kl: float | None = None,
) -> Budget | None:
    """What was said of one, or None where nothing was.

    size: bytes of the weight files. bpw: bits a weight of the whole file. ratio: how many times smaller than with 2
    bytes a weight for networks that read tokens, 4 for others. max_kl: nats a token or example.

    Raises UsageError when more than one is given, or one that means nothing.
    """
    every = {"size": size, "bpw": bpw, "ratio": ratio, "max_kl": max_kl}
    given = [name for name, value in every.items() if value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are both given", remedy="give one budget")
    if max_kl is not None:
        if not 0 < max_kl < float("inf"):
            raise UsageError(f"{max_kl} nats are no divergence to keep to", remedy="give a positive number")
        return Budget(max_kl=max_kl)
    if bpw is not None:
        made = bpw * model.weights / 8
    elif ratio is not None:
        made = (2 if reads_tokens(model) else 4) * model.weights / ratio if ratio > 0 else 0
    else:
        made = parse_size(size) if isinstance(size, str) else float(size or 0)
    if not 1 <= made < float("inf"):
        raise UsageError(f"{given[0]} leaves no byte", remedy="give a positive number")
    return Budget(size=int(made))


def held(recipe: Recipe, limit: Budget) -> Recipe:
    """The recipe whose one method that can be held to a budget has its size, where it is one.

    Raises UsageError when there is not one such method.
    """
    able = [method for method in recipe.flat() if _keeps(method, limit)]
    if len(able) != 1:
        names = " and ".join(method.name() for method in able)
        raise UsageError(
            f"this recipe has {names or 'no method'} to hold to a budget",
            remedy="take quantize.entropy for one of its methods, once",
        )
    return _with(recipe, able[0], size=limit.size or 0, step=0.0)


def stepped(recipe: Recipe, step: float) -> Recipe:
    """The recipe whose method that can be held to a divergence has this step instead."""
    able = next((method for method in recipe.flat() if isinstance(method, Budgeted)), None)
    return recipe if able is None else _with(recipe, able, size=0, step=step)


def _keeps(method: Method, limit: Budget) -> bool:
    """Whether a method keeps a size, or a divergence; of those that train, some keep a size."""
    trains = isinstance(method, Latent) and limit.max_kl is None
    return isinstance(method, Budgeted) or (trains and "size" in method.settings())


def _with(recipe: Recipe, able: Method, **settings: float) -> Recipe:
    """The recipe with other settings of one of its methods, of those that it has."""
    own = {name: value for name, value in settings.items() if name in able.settings()}
    changed = [dataclasses.replace(method, **own) if method is able else method for method in recipe.flat()]
    return Recipe(tuple(changed), recipe.coder)
