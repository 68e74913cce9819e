"""How fast networks are: in turn on one machine, over and over, so that whatever else it does hits all alike.

Figures are medians over the repetitions, with the interval between order statistics that holds the median with 95 %
whatever the law of the noise: noise on a shared machine has a long tail on one side, which ruins means. A ratio of two
networks is the median of the ratios within each repetition.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rarefy.engines.contenders import Contender, interpreter
from rarefy.engines.workers import Asked, Turn, Worker
from rarefy.errors import UsageError
from rarefy.measure.memory import available
from rarefy.measure.statistics import LEVEL
from rarefy.progress import Progress, Silent
from rarefy.units import Interval

FEWEST = 6
"""Repetitions; the interval of a median over fewer has no ends."""

PAUSE = 0.05
"""Seconds between two turns, in which threads that wait for more work go to sleep."""

_READ_BYTES = 1 << 30
"""Read to measure bandwidth: more than any processor keeps to itself."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Speed:
    """What a network reached.

    unit: `tokens`, `sentences` or `examples`. mode: how the engine holds it. loaded: seconds, once.
    resident, peak: bytes above the engine's imports, after the runs and at most.
    figures: by name (see `figures`); ratios: of each to that of the first network, paired.
    share: of the memory bandwidth that writing tokens reached; None where the bytes of a token are not known.
    """

    contender: Contender
    unit: str
    mode: str
    loaded: float
    resident: int
    peak: int
    figures: Mapping[str, Interval]
    ratios: Mapping[str, Interval]
    share: Interval | None

    def as_json(self) -> dict[str, Any]:
        """Its fields, intervals spelt out."""
        return {
            "name": self.contender.name,
            "engine": self.contender.engine,
            "unit": self.unit,
            "mode": self.mode,
            "load_seconds": self.loaded,
            "resident_bytes": self.resident,
            "peak_bytes": self.peak,
            **{name: value.as_json() for name, value in self.figures.items()},
            "ratios": {name: value.as_json() for name, value in self.ratios.items()},
            "bandwidth_share": None if self.share is None else self.share.as_json(),
        }


@dataclass(frozen=True)
class Race:
    """Several networks, and bytes a second that a plain read of memory reached between their turns."""

    speeds: tuple[Speed, ...]
    bandwidth: Interval


def race(
    contenders: Sequence[Contender],
    asked: Asked,
    pythons: Sequence[str] = (),
    progress: Progress | None = None,
) -> Race:
    """Run every network `asked.repeat` times, in turn.

    pythons: interpreters of environments that have what this one has not.

    Raises UsageError when there is nothing in common to ask them, or no engine; RarefyError when one does not run.
    """
    progress = progress or Silent()
    places = [interpreter(each.engine, pythons) for each in contenders]
    with contextlib.ExitStack() as stack:
        pairs = zip(contenders, places, strict=True)
        workers = [stack.enter_context(Worker(each, python, asked)) for each, python in pairs]
        for worker in workers:
            with progress.task(f"loading {worker.contender.name}", 0):
                worker.load()
        ids = _texts(workers, asked)
        memory = _Memory(asked.device)
        turns: list[list[Turn]] = [[] for _ in workers]
        reads = []
        with progress.task(f"running {len(workers)} in turn", len(workers) * (asked.repeat + 1)) as advance:
            for lap in range(asked.repeat + 1):
                # There and back: whoever runs after a greedy neighbour does so every second time only.
                for i in range(len(workers))[:: -1 if lap % 2 else 1]:
                    time.sleep(PAUSE)
                    turns[i].append(workers[i].run(ids, asked.generate))
                    advance(1)
                reads.append(memory.read())
    return _told(workers, turns, np.array(reads[1:]), asked)


def median(values: ArrayLike) -> Interval:
    """The median and its 95 % interval, from the k-th smallest to the k-th largest value.

    k is the largest for which so many of n values fall on one side of the median with a chance of 2.5 % at most
    (Thompson 1936: the sign test turned round). With fewer than 6 values there is no such k, and the ends are infinite.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    n, k, chance = len(x), 0, 0.5 ** len(x)
    while 2.0 * chance <= 1.0 - LEVEL:
        k += 1
        chance += math.comb(n, k) * 0.5**n
    value = float(np.median(x))
    return Interval(value, float(x[k - 1]), float(x[n - k])) if k else Interval(value, -math.inf, math.inf)


def figures(turns: Sequence[Turn], unit: str, asked: Asked) -> dict[str, Floats]:
    """Per repetition. Of language models: `first_token`, seconds; `prompt` and `generation`, tokens a second of all
    texts together. Of others: `speed`, sentences or examples a second."""
    first = np.array([turn.known[0] for turn in turns])
    if unit != "tokens":
        return {"speed": asked.batch / first}
    found = {"prompt": asked.batch * asked.prompt / first, "first_token": first}
    if asked.generate > 1:
        found["generation"] = asked.batch / _step(turns)
    return found


def _step(turns: Sequence[Turn]) -> Floats:
    """Seconds for one more token of every text."""
    return np.array([(turn.known[-1] - turn.known[0]) / (len(turn.known) - 1) for turn in turns])


def _texts(workers: Sequence[Worker], asked: Asked) -> list[list[int]] | None:
    """The same random tokens for all; None for networks that read arrays. Raises UsageError."""
    first = workers[0]
    for worker in workers:
        if worker.facts["unit"] != first.facts["unit"]:
            told = (f"{each.contender.name} is measured in {each.facts['unit']}" for each in (first, worker))
            raise UsageError("these networks have no speed in common", ", ".join(told), "measure them apart")
        length = asked.prompt + (asked.generate if first.facts["unit"] == "tokens" else 0)
        positions = worker.facts.get("positions")
        if first.facts["unit"] != "examples" and positions and length > positions:
            raise UsageError(
                f"{worker.contender.name} reads at most {positions} tokens",
                f"{length} are asked for",
                "make --prompt and --generate smaller",
            )
    if first.facts["unit"] == "examples":
        return None
    words = min(worker.facts.get("vocabulary") or 256 for worker in workers)
    ids: list[list[int]] = np.random.default_rng(0).integers(0, words, (asked.batch, asked.prompt)).tolist()
    return ids


def _told(workers: Sequence[Worker], turns: Sequence[Sequence[Turn]], reads: Floats, asked: Asked) -> Race:
    """All figures; the first turn of each only woke it up."""
    unit = workers[0].facts["unit"]
    found = [figures(each[1:], unit, asked) for each in turns]
    speeds = []
    for worker, own, values in zip(workers, turns, found, strict=True):
        speeds.append(
            Speed(
                worker.contender,
                unit,
                worker.facts["mode"],
                worker.facts["seconds"],
                own[-1].resident,
                own[-1].peak,
                {name: median(each) for name, each in values.items()},
                {name: median(each / found[0][name]) for name, each in values.items()},
                _share(worker.facts, own[1:], reads, asked),
            )
        )
    return Race(tuple(speeds), median(reads))


def _share(facts: Mapping[str, Any], turns: Sequence[Turn], reads: Floats, asked: Asked) -> Interval | None:
    """Bytes that a token must touch, over those that memory could have brought meanwhile."""
    if facts.get("touched") is None or asked.generate < 2:
        return None
    context = asked.prompt + asked.generate / 2  # of the mean token written
    size = facts["touched"] + facts["kept"] * context * asked.batch
    return median(size / _step(turns) / reads)


class _Memory:
    """A stretch of memory to read."""

    def __init__(self, device: str) -> None:
        size = min(_READ_BYTES, available() // 4) if device == "cpu" else _READ_BYTES
        self._values = torch.ones(size // 4, device=device)

    def read(self) -> float:
        """Bytes a second of reading it once."""
        began = time.perf_counter()
        self._values.sum().item()
        return self._values.nbytes / (time.perf_counter() - began)
