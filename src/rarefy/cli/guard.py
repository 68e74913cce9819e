"""Whatever goes wrong becomes one line on stderr and an exit status: 1 failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from rarefy.errors import RarefyError, UsageError
from rarefy.processes import rank

TRACEBACK = "RAREFY_TRACEBACK"
"""Environment variable that lets errors through with their traceback."""

INTERRUPTED = 130

LONGEST = 300
"""Characters of another library's message that are shown."""

_WRONG_CALL: type[Exception] = typer.BadParameter.__mro__[2]
"""The root of the parser's own errors, wherever this version of typer keeps it."""

_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")

_QUIET = {
    "HF_HUB_OFFLINE": "1",  # networks are read from disk; nothing is looked up elsewhere
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults for libraries that would otherwise draw into our terminal; what the user set stays."""


class Guarded(TyperGroup):
    """The group of verbs, with every error caught at its edge."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # factories and methods of the user's own lie where the command is typed
        status = guarded(
            lambda: super(Guarded, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        )
        if standalone_mode:
            sys.exit(status)
        return status


def guarded(run: Callable[[], Any]) -> int:
    """The exit status of `run`, its error told in one line.

    Of several processes the first alone speaks, but for errors that only another one has.
    """
    try:
        with contextlib.ExitStack() as stack:
            if rank():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has enough; the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        line, status = told(error)
        if not rank():
            say(line)
        elif status != UsageError.status:  # what was asked wrongly was so of all
            say(f"process {rank()}: {line}")
        return status
    if status == INTERRUPTED:
        say("interrupted; run the same command again to go on")
    return status if isinstance(status, int) else 0


def told(error: Exception) -> tuple[str, int]:
    """An error as a line, and its status."""
    if isinstance(error, RarefyError):
        return str(error), error.status
    if isinstance(error, _WRONG_CALL):
        return _wrong_call(error), 2
    text = _shortened(str(error))
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        return "out of memory; close other programs, raise the container's limit, or use less data (--blocks)", 1
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}", 1
    name = type(error).__name__
    return f"{name}: {text or 'no message'}; a bug, or a network unlike those known: {TRACEBACK}=1 shows where", 1


def _shortened(text: str) -> str:
    """One line, and not a library's whole page."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def _wrong_call(error: Any) -> str:
    """The parser's message as ours: lower case, with the way to the help."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    verb = context.command_path if context is not None else "rarefy"
    return f"{message[:1].lower()}{message[1:]}; `{verb} --help` explains"


def say(line: str) -> None:
    """`error: ...` on stderr."""
    from rich.text import Text

    from rarefy.report.console import stderr

    stderr().print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
