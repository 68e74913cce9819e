"""An export from end to end: converted, written, priced, proved; whole or not at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.errors import UsageError
from rarefy.export.proof import Asked, Proof, Unproved
from rarefy.files.atomic import whole_folder
from rarefy.progress import Progress, Silent

if TYPE_CHECKING:
    from rarefy.export.target import Conversion, Target
    from rarefy.measure.tasks import Data, Network
    from rarefy.model import Model
    from rarefy.units import Interval


@dataclass(frozen=True)
class Exported:
    """What an export made.

    bytes: of all files; None before they are written. forms: how many tensors are held in each form.
    inexact: file key -> relative squared error, of those that are not held exactly; why: of those held otherwise than
    asked. cost: distortion of what is held from what was exported; None where all is exact, or nothing was measured.
    """

    folder: Path
    target: str
    bytes: int | None
    forms: dict[str, int]
    inexact: dict[str, float]
    why: dict[str, str]
    cost: Interval | None = None
    proofs: tuple[Proof, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        found = {**asdict(self), "folder": str(self.folder), "proofs": [asdict(proof) for proof in self.proofs]}
        return {**found, "cost": None if self.cost is None else self.cost.as_json()}


def export(
    model: Model,
    target: Target,
    folder: Path,
    data: Data | None,
    *,
    tokenizer: Any = None,
    python: str | None = None,
    max_kl: float | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write `model` to the new directory `folder` in the form of `target`, and prove it there.

    data: what goes through both networks; None only says what would be written.
    tokenizer: of the network, for engines that bring their own.
    python: an interpreter that has the engine, where this one has not.
    max_kl: nats that conversion may cost.

    Raises UsageError when `folder` exists or the target cannot hold the network; Unproved when an engine does not
    open the export, or gives other answers than its own arithmetic explains, or conversion costs more than `max_kl`.
    Then nothing is left behind.
    """
    progress = progress or Silent()
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists", remedy="choose another output, or remove it")
    conversion = target.convert(model if target.runs_edits else replace(model, edits={}), progress)
    engines = target.engines(conversion)
    dropped = model.edits.keys() - conversion.model.edits.keys()
    why = dict.fromkeys(sorted(dropped), "its inputs are not quantized there")
    if data is None:
        return _said(folder, target, conversion, why)
    with whole_folder(folder, model.skeleton.folder) as fresh:
        target.write(replace(conversion, data=data), fresh, progress)
        rounded, inexact = target.rounded(fresh), bool(conversion.errors or dropped)
        cost = _cost(model, conversion, data, rounded, progress) if rounded is not None or inexact else None
        if max_kl is not None and cost is not None and cost.value > max_kl:
            raise Unproved(
                f"{target.name()} cannot hold {model.source} at {max_kl:g} nats",
                f"conversion costs {cost.value:.3g}",
                "allow more, or choose other settings of --to",
            )
        proofs = []
        with progress.task("restoring weights", 0):
            asked = Asked.of(conversion.model, data, tokenizer)
        for engine in engines:
            absent = engine.absent(python)
            if absent:
                proofs.append(Proof(engine.name, engine.limit, absent=absent))
                continue
            with progress.task(f"proving in {engine.name}", 0):
                proofs.append(engine.ask(fresh, asked, python))
        if all(proof.absent for proof in proofs):
            raise Unproved("no engine could open the export", proofs[-1].absent, "install it")
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
    return _said(folder, target, conversion, why, bytes=size, cost=cost, proofs=tuple(proofs))


def _said(folder: Path, target: Target, conversion: Conversion, why: dict[str, str], **more: Any) -> Exported:
    forms: dict[str, int] = {}
    for each in conversion.held.values():
        forms[each.form] = forms.get(each.form, 0) + 1
    why = {**why, **{key: each.why for key, each in conversion.held.items() if each.why}}
    return Exported(folder, target.name(), more.pop("bytes", None), forms, dict(conversion.errors), why, **more)


def _cost(
    model: Model, conversion: Conversion, data: Data, rounded: Network | None, progress: Progress
) -> Interval | None:
    """Distortion of the network as it is held, with activations rounded where they are, from the network as it was."""
    from rarefy.measure.evaluate import evaluate

    with progress.task("measuring what conversion costs", 0):
        return evaluate(rounded or conversion.model.module(), data, against=model.module()).kl
