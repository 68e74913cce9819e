"""What a run made: its result, and what its manifest says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.families import outside
from rarefy.files.directory import TensorDirectory
from rarefy.plan.identity import versions
from rarefy.plan.predict import model_bytes
from rarefy.units import bpw

if TYPE_CHECKING:
    from pathlib import Path

    from rarefy.model import Model
    from rarefy.plan.data import Calibration
    from rarefy.plan.foresee import Foreseen
    from rarefy.plan.output import Output
    from rarefy.recipe import Recipe


@dataclass(frozen=True)
class Predicted:
    """What was said of a run before its walk. None: it was not.

    nats: divergence, a token or example. peak_rss_bytes: of the process. cpu_seconds: of all threads.
    """

    bytes: int | None
    nats: float | None
    peak_rss_bytes: int
    cpu_seconds: float


@dataclass(frozen=True)
class Result:
    """What a run made. bytes: of all weight files; already: the very same artifact was there before.

    left: parameters of two or more dimensions that no step coded, with the reason.
    cpu_seconds: of all threads, by this process; less than a whole run where it went on with another's work.
    predicted: what had been said of it.
    decode_seconds: what reading and decoding all weights took on this machine, where a coder was asked for by name.
    """

    out: Path
    bytes: int
    weights: int
    bpw: float
    seconds: float
    peak_rss_bytes: int
    steps: list[dict[str, Any]]
    left: dict[str, str]
    already: bool = False
    decode_seconds: float | None = None
    cpu_seconds: float = 0.0
    predicted: Predicted | None = None

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        return {**dataclasses.asdict(self), "out": str(self.out)}


def sections_of(
    model: Model,
    made: Model,
    recipe: Recipe,
    data: Calibration | None,
    run: dict[str, Any],
    foreseen: Foreseen | None = None,
) -> dict[str, Any]:
    """The manifest's sections: nothing of clock, host, path or progress.

    model, made: before and after. run: the key and the settings.
    """
    held = list(model.sections.get("calibration", []))
    predicted = {} if foreseen is None else {"predicted": foreseen.to_json()}
    return {
        **predicted,
        "model": {**made.skeleton.describe(), "weights": made.weights, "outside": _outside(made)},
        "original": model.sections.get("original") or {"bytes": model_bytes(model)},
        "recipe": recipe.to_toml(),
        "history": [dataclasses.asdict(step) for step in made.history],
        **({"edits": {key: edit.to_json() for key, edit in made.edits.items()}} if made.edits else {}),
        "calibration": held + ([data.section()] if data else []),
        "run": {**run, "versions": versions()},
    }


def _outside(model: Model) -> dict[str, str]:
    """Matrices that no method can see: key -> why."""
    keys = model.keys
    unknown = outside(model.skeleton.empty, model.skeleton.ties)
    return {keys[name]: f"a parameter of {kind}, which is not understood" for name, kind in unknown.items()}


def result_of(output: Output, sections: dict[str, Any], already: bool = False) -> Result:
    """The result that stands at OUT; seconds and memory are the caller's to say."""
    history, weights = sections["history"], int(sections["model"]["weights"])
    total = TensorDirectory(output.path).size
    steps = [
        {
            "method": step["method"],
            "settings": step["settings"],
            "coded": len(step["damage"]),
            "worst": max(step["damage"].items(), key=lambda item: item[1], default=None),
        }
        for step in history
    ]
    coded = {name for step in history for name in step["damage"]}
    untouched = {name: why for step in history for name, why in step["untouched"].items() if name not in coded}
    left = untouched | sections["model"].get("outside", {})
    return Result(output.out, total, weights, bpw(total, weights) if weights else 0.0, 0.0, 0, steps, left, already)
