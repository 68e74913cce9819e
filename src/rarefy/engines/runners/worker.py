"""One network in one engine, in a process of its own, asked by another process.

    python worker.py ENGINE.py '{"source": "MODEL", "threads": 2, ...}'

An engine is a file with `load(asked) -> Network`. What it imports counts as there before, and so does what its
`imports(asked)` imports for this network, if it has one. Requests come on stdin, answers go to stdout, each a line of
JSON. This file needs the standard library alone, so that any interpreter which has the engine can run it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Network(Protocol):
    """A network, loaded.

    facts: `unit`, what it is asked for by (tokens, sentences, examples); `mode`, how it is held, in words;
        `vocabulary` and `positions`, tokens that it knows and reads at most; `touched`, bytes of weights that one more
        token reads; `kept`, bytes of keys and values that a token leaves. None where that cannot be known.
    written: tokens that the last run wrote after the first of its texts.
    """

    facts: dict[str, Any]
    written: list[int]

    def run(self, ids: list[list[int]] | None, new: int) -> list[float]:
        """Once, from the start: when each of `new` tokens after `ids` was known, or the one answer, by `perf_counter`.

        ids: (batch, length); None for networks that read arrays, which have their batch from loading.
        """

    def text(self, prompt: str, new: int) -> str:
        """What comes after a prompt, `new` tokens at most; of engines that tokenize."""


def resident() -> int:
    """Bytes that this process holds: what its heap keeps free is given back, and code of libraries, which lies in files
    and is shared among processes, is not counted. Where the system does not tell as much, all that it tells."""
    _give_back()
    try:
        with open("/proc/self/smaps") as lines:
            return 1024 * sum(_held(lines))
    except OSError:
        return _status("VmRSS")


def _held(lines: Iterable[str]) -> Iterator[int]:
    """Of /proc/self/smaps, kilobytes in memory of each mapping but libraries."""
    library = False
    for line in lines:
        first, *rest = line.split(maxsplit=5)
        if not first.endswith(":"):
            library = len(rest) == 5 and ".so" in os.path.basename(rest[-1])
        elif first == "Rss:" and not library:
            yield int(rest[0])


def _give_back() -> None:
    """Free memory of glibc's heap, which it keeps for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    """What Linux says of this process; elsewhere its peak, the one figure that POSIX has."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    """Let the peak be that of what follows. Where the kernel has no such thing the peak of the imports stays in it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return


def main(engine: str, words: str) -> None:
    asked = json.loads(words)
    # Libraries print where they like. What goes to stdout here is for the reader of answers alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")

    try:
        spec = importlib.util.spec_from_file_location("engine", engine)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        getattr(module, "imports", lambda _asked: None)(asked)
        sys.stdin.readline()  # the word to load: others may be importing too
        _forget_peak()
        before, whole, began = resident(), _status("VmRSS"), time.perf_counter()
        network: Network = module.load(asked)
        answer(**network.facts, seconds=time.perf_counter() - began)
        for line in sys.stdin:
            request = json.loads(line)
            if "text" in request:
                answer(text=network.text(request["text"], request["new"]))
                continue
            began = time.perf_counter()
            known = [at - began for at in network.run(request["ids"], request["new"])]
            answer(known=known, written=network.written, resident=resident() - before, peak=_status("VmHWM") - whole)
    except Exception as error:
        # Rarefy's own errors say all in their text.
        own = getattr(error, "what", None) is not None
        answer(error=str(error) if own else f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    # Files here are named as the packages that they import. What the user has in the folder where he stands is found.
    sys.path[0:1] = []
    sys.path.append(os.getcwd())
    main(*sys.argv[1:])
