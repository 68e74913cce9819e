"""Checkpoints of a training: one safetensors file, never a pickle, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rarefy.errors import FormatError
from rarefy.files.atomic import write_bytes, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands after some steps.

    path: of the file. identity: of all that decides the training; a file of another one is not used.
    """

    path: Path
    identity: str

    def save(self, step: int, tensors: Tensors) -> None:
        """Keep parameters and what the optimizer knows of them. Raises ResourceError."""
        from safetensors.torch import save

        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data = save(held, {"step": str(step), "identity": self.identity})
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # A checksum, since a file that was torn by the machine's end may still parse.
        write_bytes(self.path, hashlib.sha256(data).digest() + data)

    def load(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The steps done and the tensors; None where there is no file, a damaged one, or another training's."""
        from safetensors.torch import load

        with contextlib.suppress(OSError, FormatError):
            raw = self.path.read_bytes()
            digest, data = raw[:32], raw[32:]
            if hashlib.sha256(data).digest() == digest:
                size = int.from_bytes(data[:8], "little")
                said = json.loads(data[8 : 8 + size])["__metadata__"]
                if said["identity"] == self.identity:
                    return int(said["step"]), load(data)
        return None


def identity_of(settings: object, tensors: Tensors) -> str:
    """SHA-256 over settings (by their repr) and the values that a training starts from."""
    sha = hashlib.sha256(repr(settings).encode())
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().float().contiguous().numpy()
        sha.update(f"{name} {tuple(tensor.shape)}".encode() + values.tobytes())
    return sha.hexdigest()
