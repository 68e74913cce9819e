"""The verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from rarefy.cli import (
    bench,
    compare,
    compress,
    evaluate,
    export,
    generate,
    inspect,
    methods,
    pack,
    plan,
    unpack,
    verify,
)
from rarefy.cli.guard import Guarded
from rarefy.cli.options import examples

app = typer.Typer(
    cls=Guarded,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "rarefy inspect SmolLM2-135M",
        "rarefy compress SmolLM2-135M out -m quantize.gptq:bits=4,group=64",
        "rarefy evaluate out --against SmolLM2-135M",
        'rarefy generate out "The moon is"',
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        import rarefy

        typer.echo(f"rarefy {rarefy.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def verbs(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Show the version and leave."),
    ] = False,
) -> None:
    """Make trained neural networks smaller and faster, and tell the truth about what that cost."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


for _verb in (inspect, plan, compress, evaluate, compare, bench, generate, verify, pack, unpack, export, methods):
    app.command(epilog=_verb.EXAMPLES)(_verb.VERB)
