"""`rarefy unpack`: dense safetensors again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.options import Source, Threads, examples

EXAMPLES = examples("rarefy unpack out dense", "rarefy unpack model.gguf dense")


def unpack(
    model: Source,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.", show_default=False)],
    threads: Threads = None,
) -> None:
    """Write an artifact as an ordinary directory of dense safetensors that any tool reads."""
    from rarefy.cli.session import opened, session
    from rarefy.measure.rate import rate
    from rarefy.plan.write import unpack as write_dense
    from rarefy.report.console import note
    from rarefy.report.progress import showing
    from rarefy.units import human

    with session(threads), showing() as progress:
        write_dense(opened(model, progress), folder, progress)
    typer.echo(folder)
    note(f"{human(rate(folder).bytes)} of dense weights")


VERB = unpack
