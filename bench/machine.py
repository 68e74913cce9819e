"""What a measurement ran on: enough to read a number by, nothing that names the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "bfloat16",
    "amx_bf16": "AMX",
}


def machine() -> dict[str, str | int]:
    """Processor model, what it has of the instructions that engines look for, and the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _cpu("flags").split()
    there = ", ".join(dict.fromkeys(name for flag, name in INSTRUCTIONS.items() if flag in flags))
    return {
        "cpu": _cpu("model name") or platform.processor() or platform.machine(),
        "instructions": there,
        "cores": cores,
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, NumPy, torch and any further installed packages."""
    found = {"python": platform.python_version()}
    for package in ("numpy", "torch", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu(what: str) -> str:
    """What Linux says of the first processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.partition(":")[0].strip() == what:
                return line.partition(":")[2].strip()
    return ""
