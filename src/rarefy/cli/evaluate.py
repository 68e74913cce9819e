"""`rarefy evaluate`: what a network scores, and how far it is from its original."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarefy.cli.options import DATA, Device, DType, Files, Json, Length, Precision, Source, Threads, examples

if TYPE_CHECKING:
    from rarefy.measure.tasks import Data
    from rarefy.model import Model
    from rarefy.progress import Progress
    from rarefy.report.evaluated import Evaluated, Network, Predicted

EXAMPLES = examples(
    "rarefy evaluate out --against SmolLM2-135M",
    "rarefy evaluate out --against SmolLM2-135M --data wiki.txt.gz --json",
    "rarefy evaluate nets:mlp@out --against nets:mlp@mlp.safetensors --data x.npz",
)


def evaluate(
    model: Source,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The original: adds the divergence and paired differences.", show_default=False
        ),
    ] = None,
    data: Files = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="At most so many blocks or examples.", rich_help_panel=DATA, show_default=False
        ),
    ] = None,
    length: Length = 512,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: DType = Precision.float32,
    json: Json = False,
) -> None:
    """Measure a network on held-out data: perplexity or accuracy, and its divergence from the original.

    Data that an artifact was calibrated on are refused. Intervals are 95 %.
    """
    from rarefy.cli.session import session
    from rarefy.report.console import print_json, show
    from rarefy.report.progress import showing

    with session(threads, device, dtype.value), showing() as progress:
        found = _measured(model, against, data or [], blocks, length, device, dtype.value, progress)
    _notes(found)
    if json:
        print_json(found.to_json())
    else:
        show(found.table())


def _measured(
    model: str,
    against: str | None,
    files: list[Path],
    blocks: int | None,
    length: int,
    device: str,
    dtype: str,
    progress: Progress,
) -> Evaluated:
    from rarefy.cli.session import dtype_of, opened
    from rarefy.measure.evaluate import evaluate as measure
    from rarefy.plan.data import evaluation
    from rarefy.report.evaluated import Evaluated

    began = time.monotonic()
    network = opened(model, progress)
    original = None if against is None else opened(against, progress)
    with progress.task("reading data", 0):
        data = evaluation(network, files, blocks=blocks, length=length)
        for each in (network, original):
            if each is not None:
                refuse_calibrated(each, data)
    with progress.task("restoring weights", 0):
        module = network.module(device, dtype_of(dtype))
        reference = None if original is None else original.module(device, dtype_of(dtype))
    with progress.task(f"evaluating on {shape_of(data)}", blocks_of(data)) as advance:
        found = measure(module, data, against=reference, device=device, progress=stepwise(advance))
    return Evaluated(
        found,
        network_of(model, network),
        None if against is None or original is None else network_of(against, original),
        data.name,
        shape_of(data),
        time.monotonic() - began,
        None if original is None else predicted_of(network),
    )


def predicted_of(model: Model) -> Predicted | None:
    """The divergence that an artifact's manifest predicts, where that is from its original: of a first step alone."""
    from rarefy.report.evaluated import Predicted

    said = model.sections.get("predicted")
    if not isinstance(said, dict) or not isinstance(said.get("nats"), float) or len(model.history) != 1:
        return None
    return Predicted(said["nats"], said.get("claimed") is True)


def refuse_calibrated(network: Model, data: Data) -> None:
    """Raise UsageError when `network` was calibrated on `data`, wholly or in part."""
    from rarefy.cli.session import calibrated_on
    from rarefy.evidence.fingerprint import check_disjoint, check_disjoint_examples
    from rarefy.evidence.sources import Arrays, Tokens

    for entry in calibrated_on(network):
        sketch = str(entry.get("fingerprint", ""))
        if isinstance(data, Arrays):
            check_disjoint_examples(sketch, data.x)
            continue
        check_disjoint(sketch, data.text)
        if isinstance(data, Tokens):
            check_disjoint_examples(sketch, data.ids)  # token ids given as arrays were sketched as examples


def network_of(source: str, model: Model) -> Network:
    """The network that the user called `source`, and its rate."""
    from rarefy.cli.session import bytes_of
    from rarefy.report.evaluated import Network

    return Network(source, bytes_of(source, model), model.weights)


def blocks_of(data: Data) -> int:
    """How many blocks or examples."""
    from rarefy.evidence.pairs import Pairs
    from rarefy.evidence.sources import Arrays

    if isinstance(data, Pairs):
        return len(data.scores)
    return len(data.x) if isinstance(data, Arrays) else len(data.ids)


def shape_of(data: Data) -> str:
    """`64 blocks of 512 tokens`, `100 examples`."""
    from rarefy.evidence.pairs import Pairs
    from rarefy.evidence.sources import Sentences, Tokens
    from rarefy.report.words import plural

    if isinstance(data, Tokens):
        return f"{plural(len(data.ids), 'block')} of {data.ids.shape[1]} tokens"
    kind = "pair" if isinstance(data, Pairs) else "passage" if isinstance(data, Sentences) else "example"
    return plural(blocks_of(data), kind)


def stepwise(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """The blocks done so far, as steps."""
    before = 0

    def told(done: int, _total: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return told


def _notes(found: Evaluated) -> None:
    from rarefy.report.console import note, warn

    note(f"evaluated on {found.data}: {found.shape}")
    for warning in found.evaluation.warnings:
        warn(warning)


VERB = evaluate
