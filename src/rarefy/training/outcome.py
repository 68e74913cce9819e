"""What came of a training: codes that moved, how far, and whether the files still keep a size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rarefy.evidence import Visited, relative_error
from rarefy.files import record
from rarefy.files.container import overhead

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rarefy.codes import Code
    from rarefy.model import Model
    from rarefy.training.free import Leaf


def outcome(model: Model, free: Mapping[str, Mapping[str, Leaf]], codes: Mapping[str, Code], said: str) -> Visited:
    """The codes with notes for terminal and history. free: file key -> part -> leaf; keys without one are untouched."""
    damage, untouched = {}, {}
    for key in (key for key in free if not model.is_buffer(key)):
        if free[key]:
            new = codes.get(key)
            error = relative_error(model.codes[key].decode(), new.decode(), None) if new else 0.0
            damage[key] = float(f"{error:.6g}")
        else:
            untouched[key] = "nothing that this training moves is free"
    return Visited(codes, {"said": said, "damage": damage, "untouched": untouched})


def within(model: Model, codes: Mapping[str, Code]) -> dict[str, Code]:
    """The new codes, less those that grew most where the files would no longer keep a size that an earlier step was
    given: moved scales spread a little more or less."""
    size = next((s.settings["size"] for s in reversed(model.history) if s.settings.get("size")), 0)
    if not size:
        return dict(codes)

    def length(key: str, code: Code) -> int:
        return len(record.encode(code, model.dtypes[key]))

    held = {key: length(key, model.codes[key]) for key in model.codes}
    grown = {key: length(key, code) - held[key] for key, code in codes.items()}
    kept = dict(codes)
    excess = overhead(model.codes, size) + sum(held.values()) + sum(grown.values()) - size
    for key in sorted(grown, key=grown.__getitem__, reverse=True):
        if excess <= 0 or grown[key] <= 0:
            break
        excess -= grown[key]
        del kept[key]
    return kept
