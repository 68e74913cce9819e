"""`rarefy plan`: what a compression would make and take, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.budgets import BitsPerWeight, Exclude, MaxKL, Methods, Ratio, RecipeFile, Size, recipe_given
from rarefy.cli.options import (
    DATA,
    HARDWARE,
    Archive,
    Coder,
    Device,
    EvalFiles,
    Files,
    Json,
    Length,
    Seed,
    Source,
    Threads,
    WalkDType,
    WalkPrecision,
    coder_named,
    examples,
)

EXAMPLES = examples(
    "rarefy plan SmolLM2-135M --size 60MB",
    "rarefy plan SmolLM2-135M --max-kl 0.1 --json",
    "rarefy plan MODEL --ratio 4 --data notes.txt.xz",
)


def plan(
    model: Source,
    recipe: RecipeFile = None,
    method: Methods = None,
    size: Size = None,
    bpw: BitsPerWeight = None,
    ratio: Ratio = None,
    max_kl: MaxKL = None,
    exclude: Exclude = None,
    coder: Coder = None,
    archive: Archive = False,
    data: Files = None,
    eval_data: EvalFiles = None,
    blocks: Annotated[
        int, typer.Option(min=1, metavar="N", help="Blocks or examples of the run.", rich_help_panel=DATA)
    ] = 64,
    length: Length = 512,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: WalkDType = WalkPrecision.float32,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where temporary files lie meanwhile.", rich_help_panel=HARDWARE, show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a compression would make and take: bytes, divergence, processor time, memory, disk, and its recipe.

    It looks at 24 blocks of the data, with weights as they are and with noise in them, and compresses nothing.
    """
    from rarefy.cli.session import opened, session
    from rarefy.plan.planned import plan as make
    from rarefy.report.console import print_json, show
    from rarefy.report.planned import Planned
    from rarefy.report.progress import showing

    steps = recipe_given(recipe, method or [], (size, bpw, ratio, max_kl) != (None,) * 4)
    with session(threads, device, dtype.value), showing() as progress:
        network = opened(model, progress)
        made = make(
            network,
            steps,
            size=size,
            bpw=bpw,
            ratio=ratio,
            max_kl=max_kl,
            data=data or (),
            eval_data=eval_data or (),
            blocks=blocks,
            length=length,
            seed=seed,
            threads=threads,
            device=device,
            dtype=dtype.value,
            exclude=exclude or (),
            coder=coder_named(coder, archive),
            work_dir=work_dir,
            progress=progress,
        )
    if json:
        print_json(made.to_json())
    else:
        show(Planned(model, made).table())


VERB = plan
