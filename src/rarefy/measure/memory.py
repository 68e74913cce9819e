"""Memory and processor time of this process, and the memory that is left to it.

Read from the kernel: on Linux from /proc and cgroups of version 1 and 2, elsewhere from what POSIX
offers. All in bytes or seconds.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_SAMPLE_SECONDS = 0.01


def peak() -> int:
    """The most bytes that were ever resident in this process."""
    # What getrusage says on Linux also covers the process that started this one, up to the moment it did.
    highest = _table(_PROC / "self/status").get("VmHWM")
    if highest is not None:
        return highest * 1024
    # Linux counts KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> int:
    """Bytes resident in this process now (on systems without /proc: at its peak)."""
    try:
        pages = int((_PROC / "self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds() -> float:
    """Processor seconds, user and system, of all threads of this process so far."""
    return time.process_time()


def available() -> int:
    """Bytes this process may still take: what the machine, its cgroups and its own limits leave, the least of them."""
    # Each may be unknown; a machine that tells nothing at all still has its physical memory.
    known = [_machine(), _cgroups(), _limits()]
    return max(0, min(bound for bound in known if bound is not None))


class Peak:
    """Context manager: the most bytes resident inside it, sampled a hundred times a second.

    Where the block sets the record of the whole process, the kernel's own record is used, which
    misses nothing.

    Attributes:
        baseline: bytes resident on entering.
        bytes: the most bytes resident so far inside the block.
        above: the same above the baseline.
    """

    def __init__(self) -> None:
        self.baseline = 0
        self.bytes = 0
        self._record = 0
        self._done = threading.Event()
        self._sampler: threading.Thread | None = None

    @property
    def above(self) -> int:
        return max(0, self.bytes - self.baseline)

    def __enter__(self) -> Peak:
        self.baseline = self.bytes = resident()
        self._record = peak()
        self._done.clear()
        self._sampler = threading.Thread(target=self._sample, name="rarefy-memory", daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._sampler is not None:
            self._sampler.join()
        record = peak()
        self.bytes = max(self.bytes, resident(), record if record > self._record else 0)

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.bytes = max(self.bytes, resident())


def _machine() -> int:
    free = _table(_PROC / "meminfo").get("MemAvailable")
    if free is not None:
        return free * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits() -> int | None:
    """What RLIMIT_AS and RLIMIT_DATA leave."""
    used = _table(_PROC / "self/status")
    left = []
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            left.append(soft - used.get(name, 0) * 1024)
    return min(left, default=None)


def _cgroups() -> int | None:
    """The least that any enclosing cgroup leaves; page cache that can be dropped does not count as used."""
    left = []
    for folder, version in _cgroup_folders():
        if version == 2:
            limit, used, cache = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        bound, taken = _number(folder / limit), _number(folder / used)
        if bound is not None and taken is not None:
            left.append(bound - max(0, taken - _table(folder / "memory.stat").get(cache, 0)))
    return min(left, default=None)


def _cgroup_folders() -> list[tuple[Path, int]]:
    """Folders of this process's memory cgroups up to their roots, each with its version.

    In a container the path may name a folder of the host's that is not mounted here; the container's
    own limit then stands at the root of the mount.
    """
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            root, version = _CGROUP / "memory", 1
        elif not controllers:
            root, version = _CGROUP, 2
        else:
            continue
        inside = [part for part in path.split("/") if part not in ("", "..")]
        folders += [(root.joinpath(*inside[:depth]), version) for depth in range(len(inside), -1, -1)]
    return folders


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _table(file: Path) -> dict[str, int]:
    """Lines of a name and a number, as in meminfo and memory.stat."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.replace(":", " ").split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
