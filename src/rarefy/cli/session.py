"""What verbs do alike: open networks, choose device and threads, tell where data come from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rarefy.errors import UsageError

if TYPE_CHECKING:
    import torch

    from rarefy.model import Model
    from rarefy.progress import Progress


@contextlib.contextmanager
def session(threads: int | None = None, device: str = "cpu", dtype: str = "float32") -> Iterator[int]:
    """A verb's work, on `threads` threads of every numerical library; yields their number.

    dtype: what it computes in; that a processor is slow in it is said. Raises UsageError when there is no such device.
    """
    from rarefy.report.console import warn
    from rarefy.threads import numerical_threads, quick_in

    with numerical_threads(threads) as count:
        check_device(device)
        if device == "cpu" and not quick_in(dtype):
            warn(f"this processor has no arithmetic for {dtype}: --dtype float32 takes a fraction of the time")
        yield count


def check_device(name: str) -> None:
    """Raise UsageError unless torch can compute on the device called `name`."""
    import torch

    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise UsageError(f"--device {name} is not known", remedy="use cpu, cuda, cuda:1 or mps")
    kind, _, index = name.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= there:
        raise UsageError(f"there is no {name} here", f"torch {torch.__version__} finds {there}", "use --device cpu")


def dtype_of(name: str) -> torch.dtype:
    """torch's type called `name`."""
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def opened(source: str, progress: Progress) -> Model:
    """The network that `source` names, said to be opened while it is."""
    with progress.task(f"opening {Path(source).name}", 0):
        from rarefy.opening import open_model

        return open_model(source)


def bytes_of(source: str, model: Model) -> int:
    """Bytes of the weight files that `source` names; of its tensors, where there is no file."""
    from rarefy.measure.rate import rate
    from rarefy.plan.predict import model_bytes

    _, _, weights = source.partition("@")
    for path in (source, weights):
        if path and Path(path).exists():
            return rate(path).bytes
    return model_bytes(model)


def calibrated_on(model: Model) -> list[dict[str, object]]:
    """What an artifact's manifest says of its calibration data; nothing for other networks."""
    found = model.sections.get("calibration", [])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
