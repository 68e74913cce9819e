"""`rarefy unpack`: dense safetensors again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.options import Source, Threads, examples
from rarefy.cli.pack import Base

EXAMPLES = examples(
    "rarefy unpack out dense",
    "rarefy unpack model.gguf dense",
    "rarefy unpack packed-2000 step-2000 --base step-1000",
)


def unpack(
    model: Source,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.", show_default=False)],
    base: Base = None,
    threads: Threads = None,
) -> None:
    """Write an artifact as an ordinary directory of dense safetensors that any tool reads.

    What `rarefy pack` made comes back as the very files that were packed.
    """
    from rarefy.errors import UsageError
    from rarefy.measure.rate import rate
    from rarefy.plan.unpack import is_packed
    from rarefy.plan.unpack import unpack as restore
    from rarefy.report.console import note
    from rarefy.report.progress import showing
    from rarefy.units import human

    if is_packed(model):
        with showing() as progress:
            restore(model, folder, base=base, threads=threads, progress=progress)
    elif base is not None:
        raise UsageError(f"{model} was not packed", "only `rarefy pack` takes differences", "leave --base out")
    else:
        _write_dense(model, folder, threads)
    typer.echo(folder)
    note(f"{human(rate(folder).bytes)} of dense weights")


def _write_dense(model: str, folder: Path, threads: int | None) -> None:
    from rarefy.cli.session import opened, session
    from rarefy.export.safetensors import unpack as write_dense
    from rarefy.report.progress import showing

    with session(threads), showing() as progress:
        write_dense(opened(model, progress), folder, progress)


VERB = unpack
