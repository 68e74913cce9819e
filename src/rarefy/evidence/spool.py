"""Activations on disk between segments: one file a micro-batch, checked when read back."""

from __future__ import annotations

import json
import shutil
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.errors import FormatError
from rarefy.files.atomic import writing

if TYPE_CHECKING:
    from pathlib import Path

    import torch


class Spool:
    """The running value after one segment, for every micro-batch, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sums: list[int] = []

    def clear(self) -> None:
        """Start anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with writing(self.folder):
            self.folder.mkdir(parents=True)
        self._sums = []

    def discard(self) -> None:
        """Remove it from the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, value: torch.Tensor) -> None:
        """Add the next micro-batch."""
        array = _to_numpy(value)
        with writing(self.folder), (self.folder / f"{len(self._sums)}.npy").open("wb") as file:
            # NumPy's own writing of an array's elements does not say why it failed.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.reshape(-1).view(np.uint8).data)
        self._sums.append(zlib.crc32(array.data))

    def seal(self) -> None:
        """Say that all are there."""
        with writing(self.folder):
            (self.folder / "sums.json").write_text(json.dumps(self._sums))

    def load(self, j: int, device: str) -> torch.Tensor:
        """Micro-batch j. Raises FormatError when it is damaged."""
        try:
            array = np.load(self.folder / f"{j}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FormatError(f"spooled activations {j} cannot be read", str(error)) from None
        return _to_torch(array).to(device)

    def intact(self, count: int) -> bool:
        """Whether all `count` micro-batches are there as they were written."""
        try:
            sums = json.loads((self.folder / "sums.json").read_text())
            return len(sums) == count and all(
                zlib.crc32(np.load(self.folder / f"{j}.npy", allow_pickle=False).data) == sums[j] for j in range(count)
            )
        except (OSError, ValueError, EOFError, TypeError):
            return False


def _to_numpy(value: torch.Tensor) -> np.ndarray[Any, Any]:
    import torch

    value = value.detach().cpu().contiguous()
    # uint16 stands for bf16, which NumPy lacks and no network computes in.
    return (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy()


def _to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    value = torch.from_numpy(array)
    return value.view(torch.bfloat16) if value.dtype == torch.uint16 else value
