"""`rarefy inspect`: what is in a network."""

from __future__ import annotations

from typing import Annotated

import typer

from rarefy.cli.options import OUTPUT, Json, Source, examples

EXAMPLES = examples("rarefy inspect SmolLM2-135M", "rarefy inspect out --layers", "rarefy inspect model.gguf --json")


def inspect(
    model: Source,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", metavar="", help="A row for every tensor, not only for each block.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show what is in a network, where its bytes are, what is understood and what is not.

    Of an artifact: the recipe that made it, bits and damage by layer.
    """
    from rarefy.cli.session import bytes_of, opened, session
    from rarefy.report.console import print_json, show
    from rarefy.report.inspected import tables
    from rarefy.report.inspection import inspected
    from rarefy.report.progress import showing

    with session(), showing() as progress:
        network = opened(model, progress)
        found = inspected(model, network, bytes_of(model, network))
    if json:
        print_json(found.to_json())
    else:
        show(tables(found, layers))


VERB = inspect
