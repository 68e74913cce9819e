"""`rarefy verify`: is an artifact as it was written?"""

from __future__ import annotations

import typer

from rarefy.cli.options import Artifact, Json, examples

EXAMPLES = examples("rarefy verify out")


def verify(out: Artifact, json: Json = False) -> None:
    """Prove every file of an artifact against its checksums; damaged weights are named by tensor and tile."""
    from dataclasses import asdict

    from rarefy.errors import FormatError, UsageError
    from rarefy.files import manifest
    from rarefy.report.console import print_json
    from rarefy.units import human

    if not out.is_dir():
        raise UsageError(f"{out} is not an artifact", "it is no directory", "give what `rarefy compress` wrote")
    damages = manifest.verify(out)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    if json:
        found = [asdict(damage) for damage in damages]
        print_json({"out": str(out), "ok": not damages, "files": len(sizes), "bytes": sum(sizes), "damage": found})
    elif damages:
        for damage in damages:
            typer.echo(str(damage))
    else:
        typer.echo(f"OK: {len(sizes)} files, {human(sum(sizes))}")
    if damages:
        raise FormatError(f"{out} is damaged", f"{len(damages)} places differ from what was written", "make it again")


VERB = verify
