"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rarefy.errors import UsageError

HARDWARE = "Where and how it runs"
OUTPUT = "What comes out"
DATA = "Data"


class Precision(StrEnum):
    """Element types in which networks compute."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class WalkPrecision(StrEnum):
    """Element types in which calibration data run through a network."""

    float32 = "float32"
    bfloat16 = "bfloat16"


NETWORK = r"A directory, a .gguf, an artifact, or pkg.mod:factory\[@weights.safetensors]."

Source = Annotated[str, typer.Argument(metavar="MODEL", help=NETWORK, show_default=False)]

Artifact = Annotated[Path, typer.Argument(metavar="OUT", help="What `compress` wrote.", show_default=False)]

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Text (plain, .xz or .gz; repeatable) or one .npz with arrays x and y. "
        "Without it: part of Python's pydoc_data.topics, for networks that read text.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]

EvalFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--eval-data",
        metavar="FILE",
        help="What the predicted divergence is of, as for --data. Without it: data that the survey leaves out.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]

Length = Annotated[int, typer.Option(min=2, metavar="N", help="Tokens a block.", rich_help_panel=DATA)]

Json = Annotated[bool, typer.Option("--json", metavar="", help="One JSON object on stdout.", rich_help_panel=OUTPUT)]

Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Numerical threads; all cores unless told.",
        rich_help_panel=HARDWARE,
        show_default=False,
    ),
]

Device = Annotated[
    str, typer.Option(metavar="NAME", help="Where it computes: cpu, cuda, cuda:1, mps.", rich_help_panel=HARDWARE)
]

DType = Annotated[
    Precision, typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16 or float16.", rich_help_panel=HARDWARE)
]

WalkDType = Annotated[
    WalkPrecision, typer.Option("--dtype", metavar="TYPE", help="float32 or bfloat16.", rich_help_panel=HARDWARE)
]

Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of everything random.", rich_help_panel=HARDWARE)]


Coder = Annotated[
    str | None,
    typer.Option(
        "--coder",
        metavar="NAME",
        help="Write weights with this entropy coder where it makes them smaller: rans, huffman, context, ..",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]

Archive = Annotated[
    bool,
    typer.Option(
        "--archive",
        metavar="",
        help="The smallest files: each part by the coder that suits it best. Slow to read.",
        rich_help_panel=OUTPUT,
    ),
]


def coder_named(coder: str | None, archive: bool) -> str | None:
    """What --coder and --archive say together. Raises UsageError for both, or a coder that there is not."""
    from rarefy.entropy.choice import ARCHIVE, choice

    if archive and coder is not None:
        raise UsageError("--coder and --archive are both given", "--archive chooses itself", "give one of the two")
    coder = ARCHIVE if archive else coder
    choice(coder)
    return coder


def examples(*lines: str) -> str:
    """Examples for the end of a verb's help, one a line."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]{line}[/cyan]" for line in lines)])
