"""Options that say what is done to a network, and how large or how far off it may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rarefy.recipe import Recipe

RECIPE = "What is done (one of the two)"
BUDGET = "How large it may be, or how far off (one of the four)"

RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "-r", "--recipe", metavar="FILE", help="A recipe in TOML.", rich_help_panel=RECIPE, show_default=False
    ),
]

Methods = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--method",
        metavar="NAME:SETTINGS",
        help="A method and its settings; repeatable, in order. `rarefy methods` lists them.",
        rich_help_panel=RECIPE,
        show_default=False,
    ),
]

Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Leave tensors whose name fits as they are; repeatable.",
        rich_help_panel=RECIPE,
        show_default=False,
    ),
]

Size = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Bytes that all weight files may have: 60MB, 1.5GB. Without -r or -m by quantize.entropy.",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]

BitsPerWeight = Annotated[
    float | None,
    typer.Option(
        "--bpw", metavar="BITS", help="Bits a weight, whole file.", rich_help_panel=BUDGET, show_default=False
    ),
]

Ratio = Annotated[
    float | None,
    typer.Option(
        metavar="TIMES",
        help="Times smaller than 16 bits a weight, 32 for networks that do not read text.",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]

MaxKL = Annotated[
    float | None,
    typer.Option(
        "--max-kl",
        metavar="NATS",
        help="As small as it goes at this predicted divergence, nats a token or example.",
        rich_help_panel=BUDGET,
        show_default=False,
    ),
]


def recipe_given(file: Path | None, words: list[str], limited: bool) -> Recipe | None:
    """The recipe that one of -r and -m gives; none is needed where there is a budget."""
    from rarefy.errors import UsageError
    from rarefy.methods import names
    from rarefy.recipe import Recipe

    if file is not None and words:
        raise UsageError("-r and -m are both given", "a recipe says every method", "give one of the two")
    if file is not None:
        return Recipe.read(file)
    if not words and limited:
        return None
    if not words:
        raise UsageError(
            "nothing is said of what to do",
            remedy=f"give a budget such as --size 60MB, -r RECIPE.toml, or -m with one of {', '.join(names())}",
        )
    return Recipe.from_arguments(words)
