"""Methods, one file each, found by their path: quantize.gptq is methods/quantize/gptq.py, mypkg.mymethod is itself."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

from rarefy.errors import UsageError
from rarefy.method import Method


def names() -> list[str]:
    """Every method that comes with Rarefy, sorted."""
    found = []
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        if not info.ispkg:
            found.append(info.name.removeprefix(f"{__name__}."))
    return sorted(found)


def find(name: str) -> type[Method]:
    """The method called `name`: one of ours, or an importable module that defines one.

    Raises UsageError when there is none.
    """
    path = f"{__name__}.{name}" if name in names() else name
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError, TypeError) as error:
        if isinstance(error, ImportError) and not _is_absent(path, error):
            raise UsageError(f"method {name} cannot be imported", str(error)) from None
        close = difflib.get_close_matches(name, names(), 1)
        remedy = f"did you mean {close[0]}?" if close else "`rarefy methods` lists them"
        raise UsageError(f"no method is called {name!r}", remedy=remedy) from None
    for value in vars(module).values():
        own = inspect.isclass(value) and value.__module__ == module.__name__
        if own and issubclass(value, Method) and not inspect.isabstract(value):
            return value  # type: ignore[no-any-return]
    raise UsageError(f"module {name} defines no method", remedy="define a frozen dataclass that derives from Method")


def _is_absent(path: str, error: ImportError) -> bool:
    """Whether `path` itself, or a package above it, is what could not be found."""
    return isinstance(error, ModuleNotFoundError) and error.name is not None and f"{path}.".startswith(f"{error.name}.")
