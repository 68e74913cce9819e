"""What a run cost, measured the same way in every contestant's process. Standard library only.

Wall seconds move with whatever else the machine does; processor seconds (user + system, all threads) much less.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any


def processor_seconds() -> float:
    """User + system seconds of this process since it began."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes() -> int:
    """The largest resident set of this process so far, in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Collects `{part}_wall_s`, `{part}_processor_s` and `{part}_peak_bytes` for each named part of a run."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.figures: dict[str, Any] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), processor_seconds()
        yield
        self.figures[f"{name}_wall_s"] = round(time.perf_counter() - wall, 2)
        self.figures[f"{name}_processor_s"] = round(processor_seconds() - processor, 2)
        self.figures[f"{name}_peak_bytes"] = peak_bytes()

    def write(self, path: Path, packages: list[str], **more: Any) -> None:
        """Write the figures, the whole process's totals, `more` and the packages' versions as JSON."""
        self.figures |= {
            "total_wall_s": round(time.perf_counter() - self.began, 2),
            "total_processor_s": round(processor_seconds(), 2),
            "total_peak_bytes": peak_bytes(),
            **more,
            "cores": os.cpu_count(),
            "versions": {
                "python": platform.python_version(),
                **{p: version(p) for p in packages},
            },
        }
        path.write_text(json.dumps(self.figures, indent=1) + "\n")
