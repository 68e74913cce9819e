"""`rarefy pack`: a checkpoint in fewer bytes, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.options import Archive, Json, Threads, examples

EXAMPLES = examples(
    "rarefy pack SmolLM2-135M packed",
    "rarefy pack step-2000 packed-2000 --base step-1000",
    "rarefy pack SmolLM2-135M archived --archive",
    "rarefy unpack packed-2000 step-2000 --base step-1000",
)

Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="DIR0", help="The checkpoint that differences are taken from.", show_default=False),
]


def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A directory of safetensors.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.", show_default=False)],
    base: Base = None,
    archive: Archive = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Pack a checkpoint without loss, its numbers and all files beside them bit for bit; OUT opens as it is.

    With --base only the difference from another checkpoint is stored, and `rarefy unpack` needs that one again.
    """
    from rarefy.plan.pack import pack as run
    from rarefy.report.console import note, print_json
    from rarefy.report.progress import showing
    from rarefy.report.words import seconds
    from rarefy.units import human

    with showing() as progress:
        made = run(folder, out, base=base, archive=archive, threads=threads, progress=progress)
    if json:
        print_json(made.to_json())
        return
    typer.echo(made.out)
    share = f" ({100 * made.bytes / made.original:.1f} %)" if made.original else ""
    note(f"{human(made.original)} of weights in {human(made.bytes)}{share}")
    if made.decode_seconds is not None:
        speed = human(round(made.original / max(made.decode_seconds, 1e-6)))
        note(f"restored in {seconds(made.decode_seconds)} here, {speed} of weights a second")
    if base is not None:
        note(f"{made.differences} of {made.tensors} tensors are differences from {base}")


VERB = pack
