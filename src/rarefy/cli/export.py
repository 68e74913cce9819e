"""`rarefy export`: the network in the files of another tool, proved there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarefy.cli.options import Files, Json, Length, Source, Threads, examples

if TYPE_CHECKING:
    from rarefy.export.run import Exported
    from rarefy.progress import Progress

EXAMPLES = examples(
    "rarefy export out dense --to safetensors:dtype=bfloat16",
    "rarefy export out packed --to compressed-tensors:bits=4,group=64",
    "rarefy export out llama --to gguf:type=q4_0 --python LLAMA_ENV/bin/python",
    "rarefy export out graph --to onnx:bits=4,group=32",
)

BLOCKS = 16
"""Of held-out data, on which the cost of a conversion is measured unless told."""


def export(
    model: Source,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="safetensors, compressed-tensors, gguf or onnx, with settings after a colon.",
            show_default=False,
        ),
    ],
    data: Files = None,
    blocks: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many blocks or examples.")] = BLOCKS,
    length: Length = 512,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl", min=0, metavar="NATS", help="Refuse a conversion that costs more.", show_default=False
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="FILE",
            help="The interpreter of an environment that has llama-cpp-python or vLLM, where this one has not.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what would be held, and how exactly.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a network for another engine, open it there, and compare what comes out; DIR appears proved or not at all.

    What the files cannot hold goes to the nearest that they can, and what that costs is measured on held-out data.
    """
    from rarefy.cli.session import session
    from rarefy.report.console import print_json, show, warn
    from rarefy.report.exported import table
    from rarefy.report.progress import showing

    with session(threads), showing() as progress:
        made = _made(model, folder, to, data or [], blocks, length, max_kl, python, dry_run, progress)
    for proof in made.proofs:
        if proof.absent:
            warn(f"not proved in {proof.engine}: {proof.absent}")
    if json:
        print_json(made.to_json())
    else:
        show(table(made))


def _made(
    source: str,
    folder: Path,
    to: str,
    files: list[Path],
    blocks: int,
    length: int,
    max_kl: float | None,
    python: str | None,
    dry_run: bool,
    progress: Progress,
) -> Exported:
    from rarefy.cli.evaluate import refuse_calibrated
    from rarefy.cli.session import opened
    from rarefy.export.run import export as run
    from rarefy.export.target import target
    from rarefy.plan.data import evaluation, has_tokenizer, tokenizer_of

    wanted = target(to)
    network = opened(source, progress)
    if dry_run:
        return run(network, wanted, folder, None, progress=progress)
    with progress.task("reading data", 0):
        data = evaluation(network, files, blocks=blocks, length=length)
        refuse_calibrated(network, data)
    tokenizer = tokenizer_of(network) if has_tokenizer(network) else None
    return run(network, wanted, folder, data, tokenizer=tokenizer, python=python, max_kl=max_kl, progress=progress)


VERB = export
