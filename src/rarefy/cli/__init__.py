"""The command line: `rarefy VERB ...`, one file a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations


def main() -> None:
    """Run the command line on the process's arguments and leave with its status."""
    from rarefy.cli.app import app

    app(prog_name="rarefy")
