"""`rarefy methods`: what can be done to a network, and every setting of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarefy.cli.options import Json, examples

if TYPE_CHECKING:
    from rarefy.method import Method

EXAMPLES = examples("rarefy methods", "rarefy methods quantize.gptq")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One method.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the methods, or the settings of one."""
    from rarefy.methods import find, names
    from rarefy.report import catalogue
    from rarefy.report.console import print_json, show

    kinds: list[type[Method]] = [find(name)] if name else [find(known) for known in names()]
    if json:
        print_json({"methods": [catalogue.described(kind) for kind in kinds]})
        return
    table: Any = catalogue.settings_of(kinds[0]) if name else catalogue.listing(kinds)
    show(table)


VERB = methods
