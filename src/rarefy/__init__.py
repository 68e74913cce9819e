"""Make trained neural networks smaller and faster, and tell the truth about what that cost.

    import rarefy

    result = rarefy.compress("path/to/model", "out", ["quantize.gptq:bits=4,group=64"])
    network = rarefy.open("out").module()

After `import rarefy`, `AutoModelForCausalLM.from_pretrained("out")` opens the artifact too. Nothing heavy is imported
until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rarefy.engines import hook

if TYPE_CHECKING:
    from rarefy.engines.plugin import Packed
    from rarefy.errors import FormatError, RarefyError, ResourceError, UsageError
    from rarefy.evidence import Evidence
    from rarefy.measure.compare import compare
    from rarefy.measure.evaluate import evaluate
    from rarefy.method import Method, PerTensor
    from rarefy.model import Model
    from rarefy.opening import open_model as open  # noqa: A004 - the word users know, read as rarefy.open
    from rarefy.plan.compress import Result, compress
    from rarefy.recipe import Recipe
    from rarefy.units import Interval, Point

__version__ = "0.1.0"

_WHERE = {
    "Evidence": "evidence",
    "FormatError": "errors",
    "Interval": "units",
    "Method": "method",
    "Model": "model",
    "Packed": "engines.plugin",
    "PerTensor": "method",
    "Point": "units",
    "RarefyError": "errors",
    "Recipe": "recipe",
    "ResourceError": "errors",
    "Result": "plan.compress",
    "UsageError": "errors",
    "compare": "measure.compare",
    "compress": "plan.compress",
    "evaluate": "measure.evaluate",
    "open": "opening",
}

__all__ = [
    "Evidence",
    "FormatError",
    "Interval",
    "Method",
    "Model",
    "Packed",
    "PerTensor",
    "Point",
    "RarefyError",
    "Recipe",
    "ResourceError",
    "Result",
    "UsageError",
    "compare",
    "compress",
    "evaluate",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'rarefy' has no attribute {name!r}")
    module = importlib.import_module(f"rarefy.{_WHERE[name]}")
    return getattr(module, "open_model" if name == "open" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


hook.install()
