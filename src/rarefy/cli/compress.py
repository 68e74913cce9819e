"""`rarefy compress`: a network in, an artifact out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarefy.cli.budgets import BitsPerWeight, Exclude, MaxKL, Methods, Ratio, RecipeFile, Size, recipe_given
from rarefy.cli.options import (
    DATA,
    HARDWARE,
    OUTPUT,
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

if TYPE_CHECKING:
    from rarefy.model import Model
    from rarefy.plan.predict import Needs
    from rarefy.plan.result import Result

EXAMPLES = examples(
    "rarefy compress SmolLM2-135M out --size 50MB",
    "rarefy compress SmolLM2-135M out -m quantize.gptq:bits=4,group=64",
    "rarefy compress MODEL out -m prune.magnitude:n=2,m=4 -m quantize.gptq",
    "rarefy compress MODEL out -m quantize.gptq:group=128 --data notes.txt.xz",
    "rarefy compress other-model other-out -r out/recipe.toml",
    "rarefy compress nets:mlp@mlp.safetensors out -m quantize.rtn:bits=3",
)


def compress(
    model: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.", show_default=False)],
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
        int, typer.Option(min=1, metavar="N", help="At most so many blocks or examples.", rich_help_panel=DATA)
    ] = 64,
    length: Length = 512,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    dtype: WalkDType = WalkPrecision.float32,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder that holds OUT.work, where unfinished work is kept; that of OUT unless told.",
            rich_help_panel=HARDWARE,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what it would take.", rich_help_panel=OUTPUT)
    ] = False,
    json: Json = False,
) -> None:
    """Compress a network into OUT, whole or not at all.

    Killed at any moment, the same command goes on where it was. Finished, it answers "already done".
    """
    from rarefy.cli.session import opened, session
    from rarefy.plan import compress as run
    from rarefy.plan.predict import Needs
    from rarefy.report.progress import showing

    limited = (size, bpw, ratio, max_kl) != (None,) * 4
    steps = recipe_given(recipe, method or [], limited)  # before anything slow is imported: most mistakes are made here
    with session(threads, device, dtype.value), showing() as progress:
        network = opened(model, progress)
        with progress.task("reading weights and data", 0):
            pass  # what is shown until the walk has something to say
        made = run.compress(
            network,
            out,
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
            dry_run=dry_run,
            progress=progress,
        )
    if isinstance(made, Needs):
        _needs(made, json)
    else:
        _answer(model, network, made, json)


def _answer(source: str, network: Model, made: Result, json: bool) -> None:
    from rarefy.families import is_causal, reads_tokens
    from rarefy.files import manifest
    from rarefy.report.compressed import Compressed
    from rarefy.report.console import note, print_json, show

    sections = manifest.read(made.out)
    report = Compressed.of(source, made, sections, is_causal(network), reads_tokens(network))
    if json:
        print_json(report.to_json())
        return
    if made.already:
        note(f"already done: {made.out} was made from the same inputs by the same recipe")
    show(report.table())


def _needs(needs: Needs, json: bool) -> None:
    from rarefy.report.console import print_json
    from rarefy.units import human

    if json:
        print_json({"memory": needs.memory, "disk": needs.disk, "cpu_seconds": round(needs.seconds, 3)})
        return
    took = f"{human(needs.memory)} of memory, {human(needs.disk)} of disk and {needs.seconds:.0f} s of the processor"
    typer.echo(f"about {took}; nothing was written")


VERB = compress
