"""Makes transformers know Rarefy without importing it.

transformers finds a checkpoint's quantizer by name in a registry, and has no entry points: somebody must register
before `from_pretrained`. Importing transformers for that takes seconds and brings torch, so `import rarefy` leaves a
finder on `sys.meta_path` that registers when, and only when, transformers imports its registry itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

REGISTRY = "transformers.quantizers.auto"

_log = logging.getLogger("rarefy")
_lock = threading.Lock()


def install() -> None:
    """Register Rarefy with transformers: now if its registry is imported, else when it is. Call it at will."""
    with _lock:
        # By name: after importlib.reload(this module) the finder that stands there is of another class.
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__qualname__ != Finder.__qualname__]
        sys.meta_path.insert(0, Finder())
    if REGISTRY in sys.modules:
        # Another thread may be in the middle of importing it: import_module waits until it has finished.
        register(importlib.import_module(REGISTRY))


def register(registry: ModuleType) -> None:
    """Enter Rarefy into `registry` (transformers.quantizers.auto) once. What goes wrong is logged, never raised."""
    try:
        plugin = importlib.import_module("rarefy.engines.plugin")
        enter = getattr(plugin, "register", None)
        # None when the plug-in was imported first and imports the registry only now: it registers at its own end.
        if enter is not None:
            enter(registry)
    except Exception as error:  # someone else's import must not fail for our sake
        _log.warning("this transformers cannot open Rarefy artifacts: %s; install transformers 5.21 or newer", error)


class Finder:
    """Finds nothing itself: lets the others find the registry, and registers after it has run."""

    __qualname__ = "rarefy.engines.hook.Finder"

    def __init__(self) -> None:
        self._busy = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The registry's spec, its loader extended; None for every other module."""
        # Another hook of this kind asks the other finders too, which would ask this one again without end.
        if name != REGISTRY or getattr(self._busy, "here", False):
            return None
        self._busy.here = True
        try:
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            found = (finder.find_spec(name, path, target) for finder in others)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._busy.here = False
        if spec is not None and spec.loader is not None:
            _register_after(spec)
        return spec


def _register_after(spec: ModuleSpec) -> None:
    """Make the spec's loader register once the module has run. The loader keeps its type, which others look at."""
    assert spec.loader is not None
    execute = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        register(module)

    try:
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    except AttributeError:
        _log.warning("Rarefy artifacts will not open: the loader of %s cannot be extended", REGISTRY)
