"""Networks that run, each in a process of its own, one at a time: their memory is their own, and so is their crash."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from rarefy.engines.contenders import ENGINES, RUNNERS, Contender
from rarefy.engines.touched import touched
from rarefy.errors import RarefyError

_CLOSING_SECONDS = 5


@dataclass(frozen=True)
class Asked:
    """What is asked of every network.

    prompt, generate: tokens read and written, of each of `batch` texts; encoders read `prompt` tokens, networks that
        read arrays none.
    repeat: how often each does it. threads: of each engine. device: of torch.
    data: an .npz with x, for networks that read arrays.
    """

    prompt: int = 128
    generate: int = 64
    batch: int = 1
    repeat: int = 10
    threads: int = 1
    device: str = "cpu"
    data: str | None = None


@dataclass(frozen=True)
class Turn:
    """One run of a network.

    known: seconds after which each token was known, or the one answer. resident, peak: bytes in memory after it, and
    at most since loading began, both above those of the engine's imports. written: tokens, of the first text.
    """

    known: tuple[float, ...]
    resident: int
    peak: int
    written: tuple[int, ...] = ()


class Worker:
    """A process with a network. It imports its engine as soon as this is made.

    facts: once it is loaded, as `engines.runners.worker.Network` has them, and `seconds` of loading.

    Its methods raise RarefyError when the engine does not run the network.
    """

    def __init__(self, contender: Contender, python: str, asked: Asked) -> None:
        engine = ENGINES[contender.engine]
        words = asdict(asked) | {
            "source": contender.source,
            "dtype": contender.dtype,
            # Seconds for a GGUF: not where one run is asked for, which makes no figures.
            "touched": touched(contender.source) if engine.file and asked.repeat > 1 else None,
        }
        self.contender = contender
        # A file, since a pipe that nobody reads fills; it closes with the process.
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - the user's own interpreter
            [python, str(RUNNERS / "worker.py"), str(RUNNERS / engine.runner), json.dumps(words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.facts: dict[str, Any] = {}

    def load(self) -> None:
        """Load the network; returns when it is there."""
        self.facts = self._asked({})

    def run(self, ids: list[list[int]] | None, new: int) -> Turn:
        """Run it once, from the start."""
        found = self._asked({"ids": ids, "new": new})
        return Turn(tuple(found["known"]), found["resident"], found["peak"], tuple(found["written"]))

    def text(self, prompt: str, new: int) -> str:
        """What an engine that tokenizes writes after a prompt, `new` tokens at most."""
        return str(self._asked({"text": prompt, "new": new})["text"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # after its last line it ends
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says more
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in found:
            raise RarefyError(f"{self.contender.engine} does not run {self.contender.name}", found["error"])
        return found

    def _last_words(self) -> str:
        """Of a process that ended without an answer."""
        status = self._process.wait()
        self._said.seek(0)
        last = (self._said.read().strip().splitlines() or ["it said nothing"])[-1][:300]
        how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"its process {how}: {last}"
