"""`rarefy compare`: networks against each other on the same data, and how sure the differences are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarefy.cli.options import DATA, NETWORK, Device, DType, Files, Json, Length, Precision, Threads, examples
from rarefy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rarefy.measure.degeneration import Speech
    from rarefy.measure.tasks import Data
    from rarefy.model import Model
    from rarefy.progress import Progress
    from rarefy.report.compared import Compared

EXAMPLES = examples(
    "rarefy compare out-gptq out-rtn --original SmolLM2-135M",
    "rarefy compare out SmolLM2-135M --margin perplexity=0.5",
    "rarefy compare nets:mlp@a nets:mlp@b --data x.npz --margin accuracy=0.01 --json",
)


def compare(
    networks: Annotated[
        list[str], typer.Argument(metavar="A B ...", help=f"Two or more networks, each: {NETWORK}", show_default=False)
    ],
    original: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What they were made from: adds each one's divergence from it, and its difference.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=M",
            help="Is the first no worse than the second by more than M? NAME is kl, nll, perplexity, accuracy or "
            "spearman; accuracy=0.01 is one point. Repeatable.",
            show_default=False,
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
    tokens: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Let language models write so many tokens after each of 8 prompts; 0: no texts."
        ),
    ] = 128,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: DType = Precision.float32,
    json: Json = False,
) -> None:
    """Compare networks on the same held-out data: what differs, how sure that is, which answers change.

    Data that an artifact was calibrated on are refused. For an encoder a .tsv of scored sentence pairs (score, first,
    second; or STS-B's columns) gives the rank correlation. Intervals are 95 % and paired.
    """
    from rarefy.cli.session import session
    from rarefy.report.console import note, print_json, show, warn
    from rarefy.report.progress import showing

    limits = margins_of(margin or [])
    names = [*networks, *([] if original is None else [original])]
    if len(names) < 2:
        raise UsageError("one network cannot be compared with itself", remedy="name a second, or give --original")
    if len(set(networks)) < len(networks):
        raise UsageError("a network is named twice", remedy="name each once")
    with session(threads, device, dtype.value), showing() as progress:
        began = time.monotonic()
        opened, inputs = _opened(names, data or [], blocks, length, progress)
        found = _compared(opened, networks, original, inputs, limits, tokens, device, dtype.value, progress, began)
    note(f"compared on {found.data}: {found.shape}")
    for warning in found.warnings():
        warn(warning)
    if json:
        print_json(found.to_json())
    else:
        show(found.table())


def margins_of(words: list[str]) -> dict[str, float]:
    """`kl=0.01` and so on, read. Raises UsageError."""
    from rarefy.measure.evaluation import MEASURES

    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            name = ""
        if name not in MEASURES:
            remedy = f"write NAME=NUMBER, NAME one of {', '.join(MEASURES)}"
            raise UsageError(f"--margin {word} is not understood", remedy=remedy)
    return found


def _opened(
    names: list[str], files: list[Path], blocks: int | None, length: int, progress: Progress
) -> tuple[dict[str, Model], Data]:
    from rarefy.cli.evaluate import refuse_calibrated
    from rarefy.cli.session import opened
    from rarefy.plan.data import shared_evaluation

    models = {name: opened(name, progress) for name in names}
    with progress.task("reading data", 0):
        data = shared_evaluation(list(models.values()), files, blocks=blocks, length=length)
        for model in models.values():
            refuse_calibrated(model, data)
    return models, data


def _compared(
    models: Mapping[str, Model],
    networks: list[str],
    original: str | None,
    data: Data,
    limits: Mapping[str, float],
    tokens: int,
    device: str,
    dtype: str,
    progress: Progress,
    began: float,
) -> Compared:
    from rarefy.cli.evaluate import blocks_of, network_of, shape_of, stepwise
    from rarefy.cli.session import dtype_of
    from rarefy.measure.compare import compare as measured
    from rarefy.report.compared import Compared

    with progress.task("restoring weights", 0):
        modules = {name: model.module(device, dtype_of(dtype)) for name, model in models.items()}
    with progress.task(f"comparing on {shape_of(data)}", blocks_of(data)) as advance:
        found = measured(
            {name: modules[name] for name in networks},
            data,
            original=None if original is None else modules[original],
            margins=limits,
            device=device,
            progress=stepwise(advance),
        )
    speeches = _speeches(models, modules, tokens, progress)
    rates = {name: network_of(name, model) for name, model in models.items()}
    return Compared(found, rates, original, speeches, data.name, shape_of(data), time.monotonic() - began)


def _speeches(
    models: Mapping[str, Model], modules: Mapping[str, Any], tokens: int, progress: Progress
) -> dict[str, Speech]:
    """What every language model writes after the fixed prompts, where there is a tokenizer to write with."""
    from rarefy.families import is_causal
    from rarefy.measure.degeneration import PROMPTS, speak
    from rarefy.plan.data import has_tokenizer, tokenizer_of

    reading = [model for model in models.values() if has_tokenizer(model)]
    if not tokens or not reading or not all(map(is_causal, models.values())):
        return {}
    tokenizer = tokenizer_of(reading[0])
    found = {}
    with progress.task(f"letting them write, {len(PROMPTS)} texts each", len(modules)) as advance:
        for name, module in modules.items():
            found[name] = speak(module, tokenizer, tokens=tokens)
            advance(1)
    return found


VERB = compare
