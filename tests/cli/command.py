"""The command line, run in this process."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from typer.testing import CliRunner

from rarefy.cli.app import app


class Said(NamedTuple):
    status: int
    out: str
    err: str

    def json(self) -> Any:
        """stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    def error(self) -> str:
        """The one line of an error, the last on stderr; stdout must be empty."""
        assert self.out == ""
        assert "Traceback" not in self.err
        line = self.err.rstrip("\n").split("\n")[-1]
        assert line.startswith("error: "), self.err
        return line


def rarefy(*words: object) -> Said:
    """The command line in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="rarefy")
    return Said(result.exit_code, result.stdout, result.stderr)
