"""What an index may say of its shards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attacks import INDEX, attack
from attacks.headers import entry, plain

if TYPE_CHECKING:
    from pathlib import Path

    from attacks import Make


def shards(placed: Any, *files: str) -> Make:
    """An index as told (text as it is), and shards that hold one tensor `x`."""

    def make(folder: Path) -> None:
        (folder / INDEX).write_text(placed if isinstance(placed, str) else json.dumps({"weight_map": placed}))
        for file in files:
            (folder / file).write_bytes(plain({"x": entry()}, b"ab"))

    return make


def linked(folder: Path) -> None:
    shards({"x": "a.safetensors"})(folder)
    (folder / "a.safetensors").symlink_to("a.safetensors")


for trick in (
    "../a.safetensors", "/a.safetensors", "x/a.safetensors", "x\\a.safetensors", "C:a.safetensors", "a\n.safetensors",
    "a\0.safetensors", "..", "", "a.bin",
):  # fmt: skip
    attack("path tricks", f"a shard called {trick!r}", shards({"x": trick}), "not a file beside it")
attack("truncated", "a shard that is not there", shards({"x": "a.safetensors"}), "lacks its shard")
attack("duplicate or cyclic", "a shard that is a link to itself", linked, "lacks its shard")
attack("duplicate or cyclic", "a tensor twice in an index", shards('{"weight_map":{"x":"a","x":"a"}}'), "twice")
attack("lying", "a shard without its tensor", shards({"y": "a.safetensors"}, "a.safetensors"), "has no tensor 'y'")
attack("lying", "an index of lists", shards({"x": ["a.safetensors"]}), "no weight_map")
attack("gigantic", "an index 100,000 deep", shards("[" * 100_000), "is not JSON")
