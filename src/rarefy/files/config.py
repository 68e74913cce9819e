"""config.json from a stranger: a network is not built larger than the weight files beside it can fill."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from rarefy.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE: Final = "config.json"
_LARGEST: Final = 100_000_000

_LAYERS: Final = re.compile(r"(num_|n_)?(hidden_|encoder_|decoder_)?(layers?|depths?|blocks?)")
_WIDTHS: Final = re.compile(
    r"(hidden|intermediate|head|vocab|embedding|ffn|d)_?(size|sizes|dim|model|ff)|n_embd|n_inner|dim"
)

_ROOM: Final = 16
"""How often layers may share a tensor, and elements a dimension."""


def read(folder: Path) -> dict[str, Any]:
    """The object in `folder`/config.json. Raises FormatError when it is none."""
    path = folder / FILE
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path} is refused", f"it is larger than {_LARGEST} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {path}", str(error)[:100]) from None
    if not isinstance(config, dict):
        raise FormatError(f"{path} is not a JSON object")
    return config


def check(config: dict[str, Any], tensors: int, elements: int) -> None:
    """Raise FormatError when a config asks for more layers than there are tensors for, or wider ones than elements.

    Lists and buffers are made as large as it says before a name or a shape can be compared with the files.
    """
    for name, value in _numbers(config, 0):
        layers, widths = _LAYERS.fullmatch(name), _WIDTHS.fullmatch(name)
        most = _ROOM * (tensors if layers else elements)
        if (layers or widths) and value > most:
            there = f"{tensors} tensors" if layers else f"{elements} elements"
            raise FormatError(
                f"{FILE} says {name} = {value}",
                f"the weight files hold {there}",
                "check that the weights belong to this config",
            )


def _numbers(table: dict[str, Any], depth: int) -> Iterator[tuple[str, int]]:
    """Integers by the name under which they stand, those of lists and of tables inside too."""
    for name, value in table.items():
        if isinstance(value, dict) and depth < 8:
            yield from _numbers(value, depth + 1)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                yield name, item


def refuse_quantized(config: dict[str, Any], folder: Path) -> None:
    """Raise UsageError when the weights are codes of another tool, which mean nothing without its scales."""
    told = config.get("quantization_config", config.get("compression_config"))
    if told is None:
        return
    method = told.get("quant_method") if isinstance(told, dict) else None
    raise UsageError(
        f"{folder} is quantized by {method or 'another tool'}",
        "its weights are not numbers by themselves",
        "start from the original network, dequantize it with that tool, or keep it bit for bit: rarefy pack",
    )
