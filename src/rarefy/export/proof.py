"""Proof of an export: opened in the engine that is to run it, same inputs through both, outputs compared.

What an engine gives is held to the network that the files should hold, restored by Rarefy and run in float32: what
conversion itself cost is another figure, and may be large without any fault.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from rarefy.errors import RarefyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from rarefy.measure.tasks import Data, Task
    from rarefy.model import Model

BLOCKS, LENGTH = 4, 128
"""Blocks, and tokens of each, that go through both."""

EXACT: Final = 1e-5
"""Nats between two runs of the same weights in float32: they differ in the order of sums alone."""

PARTED = 1e-3
"""Relative difference of a layer's output from which two networks have parted there."""

RUNNERS = Path(__file__).parent / "runners"


class Unproved(RarefyError):
    """An export that an engine does not open, or runs with other answers."""


@dataclass(frozen=True)
class Proof:
    """What an engine made of the files.

    kl: mean distortion from the network that they should hold, nats; largest: difference of two outputs (of log
    probabilities where there are such). tokens: whether its tokenizer gives the same tokens, where it was asked.
    absent: why it was not asked, or "".
    """

    engine: str
    limit: float
    kl: float = 0.0
    largest: float = 0.0
    tokens: bool | None = None
    absent: str = ""


@dataclass(frozen=True)
class Asked:
    """What goes through both. task: the sample; outputs: what should come. text, tokenizer: for engines with one."""

    task: Task
    network: nn.Module
    outputs: torch.Tensor
    tokenizer: Any = None

    @classmethod
    def of(cls, model: Model, data: Data, tokenizer: Any = None) -> Asked:
        """model: what the files should hold."""
        from rarefy.evidence.sources import Tokens
        from rarefy.measure.tasks import task_of

        if isinstance(data, Tokens):
            data = dataclasses.replace(data, ids=data.ids[:BLOCKS, :LENGTH])
        task, network = task_of(data), model.module()
        return cls(task, network, answers(task, network), tokenizer)


def answers(task: Task, network: nn.Module) -> torch.Tensor:
    """A network's outputs on the first blocks."""
    import torch

    with torch.inference_mode():
        return task.outputs(network, slice(0, min(task.blocks, BLOCKS)), torch.device("cpu")).float()


class Engine(Protocol):
    """Who opens an export. limit: nats that its outputs may be off by its own arithmetic."""

    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> float: ...

    def absent(self, python: str | None) -> str:
        """Why it cannot be asked, or ""."""

    def ask(self, folder: Path, asked: Asked, python: str | None) -> Proof:
        """Open the files and compare. Raises Unproved when it does not open them or is over the limit."""


@dataclass(frozen=True)
class Library:
    """An engine that gives a torch module, in this process. open: its network from the export's folder."""

    name: str
    open: Callable[[Path], nn.Module]
    package: str
    limit: float = EXACT

    def absent(self, python: str | None) -> str:
        return "" if importlib.util.find_spec(self.package) else f"{self.package} is not installed"

    def ask(self, folder: Path, asked: Asked, python: str | None) -> Proof:
        try:
            network = self.open(folder).eval()
            given = answers(asked.task, network)
        except RarefyError:
            raise
        except Exception as error:
            raise Unproved(f"{self.name} does not open the export", f"{type(error).__name__}: {error}") from error
        proof = compared(self, asked, given)
        if not proof.kl <= self.limit:
            raise Unproved(over(self, proof), f"they part at {parting(asked, network) or 'the output'}")
        return proof


@dataclass(frozen=True)
class Program:
    """An engine that runs in a process of its own, under an interpreter that may be another environment's.

    package, module: what pip and Python call it. script: in `runners`. file: what it opens, in the export's folder.
    """

    name: str
    package: str
    module: str
    script: str
    limit: float
    file: str = "."

    def absent(self, python: str | None) -> str:
        found = subprocess.run(  # noqa: S603 - the user's own interpreter
            [python or sys.executable, "-c", f"import {self.module}"],
            capture_output=True,
            check=False,
            cwd=RUNNERS.root,
        )
        where = f"in the environment of {python}" if python else "here; --python names another interpreter"
        return f"{self.package} is not installed {where}" if found.returncode else ""

    def ask(self, folder: Path, asked: Asked, python: str | None) -> Proof:
        import torch

        data: Any = asked.task.data  # type: ignore[attr-defined]  # engines of this kind are asked about language models
        text = str(data.text)[:2000]
        with tempfile.TemporaryDirectory(prefix="rarefy-proof-") as scratch:
            given = Path(scratch) / "given.npz"
            np.savez(given, ids=data.ids[:BLOCKS], text=np.array(text))
            self._run(python, folder / self.file, given, Path(scratch) / "outputs.npz")
            with np.load(Path(scratch) / "outputs.npz") as found:
                outputs, said = torch.from_numpy(found["outputs"]), json.loads(str(found["said"]))
        proof = compared(self, asked, outputs)
        if not proof.kl <= self.limit:
            raise Unproved(over(self, proof))
        return dataclasses.replace(proof, tokens=self._tokens(asked.tokenizer, text, said))

    def _run(self, python: str | None, path: Path, given: Path, outputs: Path) -> None:
        command = [python or sys.executable, str(RUNNERS / self.script), str(path), str(given), str(outputs)]
        ran = subprocess.run(  # noqa: S603 - the user's own interpreter
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if ran.returncode or not outputs.is_file():
            last = (ran.stderr.strip().splitlines() or [f"it ended with status {ran.returncode}"])[-1]
            remedy = "without --python it is written, and not proved there" if python else ""
            raise Unproved(f"{self.name} does not run the export", last[:300], remedy)

    def _tokens(self, tokenizer: Any, text: str, said: dict[str, Any]) -> bool | None:
        """Whether text becomes the same tokens, and chats the same text. Raises Unproved when not."""
        if tokenizer is None or "tokens" not in said:
            return None
        ids = list(tokenizer(text)["input_ids"])
        if said["tokens"] != ids:
            at = next((i for i, pair in enumerate(zip(ids, said["tokens"], strict=False)) if pair[0] != pair[1]), -1)
            raise Unproved(f"{self.name} makes other tokens of text", f"from token {at} on")
        if (said.get("chat_template") or None) != (getattr(tokenizer, "chat_template", None) or None):
            raise Unproved(f"{self.name} has another chat template")
        return True


def compared(engine: Engine, asked: Asked, given: torch.Tensor) -> Proof:
    """An engine's outputs beside those that should have come; it may leave out the last positions."""
    import torch

    from rarefy.measure.divergence import softmax_kl

    wanted = asked.outputs
    if given.dim() == wanted.dim() == 3:
        wanted = wanted[:, : given.shape[1]]
    if given.shape != wanted.shape:
        shapes = f"{tuple(given.shape)}, not {tuple(wanted.shape)}"
        raise Unproved(f"{engine.name} runs the export with outputs of another shape", shapes)
    kl = float(asked.task.law(wanted, given.float()).double().mean())
    if asked.task.law is softmax_kl:
        wanted, given = (torch.log_softmax(values.float(), -1) for values in (wanted, given))
    return Proof(engine.name, engine.limit, kl, float((wanted - given).abs().max()))


def over(engine: Engine, proof: Proof) -> str:
    return (
        f"{engine.name} runs the export with other answers (distortion {proof.kl:.3g} nats, allowed {engine.limit:g}; "
        f"largest difference {proof.largest:.3g})"
    )


def parting(asked: Asked, network: nn.Module) -> str:
    """The first layer, in order of execution, whose output is another one than in the network that should have come."""
    return first_parted(outputs_by_layer(asked, asked.network), outputs_by_layer(asked, network))


def first_parted(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """The first layer of `wanted` that is not there in `found`, or has another output; "" where all agree."""
    import torch

    for path, values in wanted.items():
        other = found.get(path)
        if other is None or other.shape != values.shape:
            return path
        if not torch.linalg.vector_norm(values - other) <= PARTED * torch.linalg.vector_norm(values):
            return path
    return ""


def outputs_by_layer(asked: Asked, network: nn.Module) -> dict[str, torch.Tensor]:
    """What each layer without layers inside gives, the first time that it runs."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                found.setdefault(path, output.detach().to(torch.float32, copy=True))  # the next may work in place

        return hook

    leaves = [(path, layer) for path, layer in network.named_modules() if not any(layer.children())]
    handles = [layer.register_forward_hook(keep(path)) for path, layer in leaves]
    try:
        with torch.inference_mode():
            asked.task.outputs(network, slice(0, 1), torch.device("cpu"))
    finally:
        for handle in handles:
            handle.remove()
    return found


def opened_by(model: Model) -> Library:
    """Who opens a directory of dense safetensors: transformers, or torch where the network is no one of its own."""
    if model.skeleton.config() is None:
        return Library(f"torch {importlib.metadata.version('torch')}", lambda folder: _loaded(model, folder), "torch")
    return transformers_engine(model)


def transformers_engine(model: Model) -> Library:
    """transformers, in float32."""

    def open_(folder: Path) -> nn.Module:
        import transformers

        kind = getattr(transformers, (model.skeleton.config() or {})["architectures"][0])
        opened: nn.Module = kind.from_pretrained(folder, dtype="float32")
        return opened

    return Library(f"transformers {importlib.metadata.version('transformers')}", open_, "transformers")


def _loaded(model: Model, folder: Path) -> nn.Module:
    """A module with the weights of a folder, by names as the files have them."""
    from rarefy.files.directory import TensorDirectory

    return dataclasses.replace(model, codes=TensorDirectory(folder).codes()).module()
