"""Errors that a user reads: one line that says what happened, why, and what to do.

The command line prints ``str(error)`` and leaves with the class's ``status``.
"""


class RarefyError(Exception):
    """What happened, why, and what to do about it, as one line.

    Args:
        what: the fact, e.g. ``"cannot write out/model.safetensors"``.
        why: its cause, e.g. ``"the disk is full"``.
        remedy: what the reader can do, e.g. ``"free 120 MB or choose another folder"``.
    """

    status = 1
    """Exit status of the command line."""

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        line = _one_line(self.what)
        if self.why:
            line += f": {_one_line(self.why)}"
        if self.remedy:
            line += f"; {_one_line(self.remedy)}"
        return line


class UsageError(RarefyError):
    """A wrong setting or a wrong value: exit status 2."""

    status = 2


class FormatError(RarefyError):
    """A damaged or hostile file."""


class ResourceError(RarefyError):
    """Not enough disk or memory for what was asked."""


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".;:")
