"""Proof of an ONNX export in ONNX Runtime, on the CPU: whole, and token by token behind a cache."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from rarefy.errors import RarefyError
from rarefy.export.proof import Asked, Proof, Unproved, answers, compared, first_parted, outputs_by_layer, over

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

LIMIT: Final = 1e-4
"""Nats between the same weights in float32 under two engines whose kernels add in other orders, and restore groups on
the way."""

STEPS: Final = 4
"""Tokens that come one by one."""

SHORTER: Final = 3
"""Tokens that the second row has less, which padding on the left makes up for."""


def session(model: str | bytes) -> Any:
    """An inference session. model: a path, or the bytes of a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Session(nn.Module):
    """A graph, called as the network that it was made from; inputs that are not given have their plain values."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.run = session(str(path))
        self.inputs = {given.name: given.shape for given in self.run.get_inputs()}
        self.main = self.run.get_outputs()[0].name

    def forward(self, x: Tensor | None = None, **named: Tensor) -> Tensor:
        """The first output."""
        given = {name: tensor.numpy() for name, tensor in named.items() if name in self.inputs}
        if x is not None:
            given[next(iter(self.inputs))] = x.numpy()
        return torch.from_numpy(self.run.run([self.main], self.filled(given))[0])

    def filled(self, given: Arrays) -> Arrays:
        """With a mask that hides nothing, positions from zero, and no past."""
        ids = given.get("input_ids")
        if ids is None:
            return given
        batch, length = ids.shape
        plain: Arrays = {
            "attention_mask": np.ones_like(ids),
            "position_ids": np.broadcast_to(np.arange(length), (batch, length)),
            "token_type_ids": np.zeros_like(ids),
        }
        for name, shape in self.inputs.items():
            if name.startswith("past_key_values."):
                plain[name] = np.zeros((batch, shape[1], 0, shape[3]), np.float32)
        return {name: given.get(name, plain.get(name)) for name in self.inputs}  # type: ignore[misc]

    def cached(self, ids: NDArray[np.int64], mask: NDArray[np.int64], steps: int) -> NDArray[np.float32]:
        """Logits of all positions (batch, length, d): the first at once, the last `steps` one by one."""
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        names = [output.name for output in self.run.get_outputs()]
        length = ids.shape[1]
        past: Arrays = {}
        found, start = [], 0
        for end in (length - steps, *range(length - steps + 1, length + 1)):
            fed = {"input_ids": ids[:, start:end], "position_ids": positions[:, start:end]}
            out = self.run.run(names, self.filled({**fed, "attention_mask": mask[:, :end], **past}))
            found.append(out[0])
            past = {name.replace("present.", "past_key_values."): v for name, v in zip(names[1:], out[1:], strict=True)}
            start = end
        return np.concatenate(found, 1)


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime in this process. file: what it opens. causal: the graph takes keys and values. rounds: it rounds
    activations, which is priced as conversion; proved is the same file with that taken out."""

    file: str
    causal: bool
    rounds: bool
    limit: float = LIMIT

    @property
    def name(self) -> str:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}"

    def absent(self, python: str | None) -> str:
        """Never: without it there would be no export."""
        return ""

    def ask(self, folder: Path, asked: Asked, python: str | None) -> Proof:
        with tempfile.TemporaryDirectory(prefix="rarefy-proof-") as scratch:
            path = _plain(folder / self.file, Path(scratch)) if self.rounds else folder / self.file
            try:
                network = Session(path)
                proofs = [compared(self, asked, answers(asked.task, network))]
                if self.causal:
                    proofs.append(self._cached(network, asked))
            except RarefyError:
                raise
            except Exception as error:
                why = str(error).strip().splitlines()[0][:300]
                raise Unproved(f"{self.name} does not run the export", f"{type(error).__name__}: {why}") from error
            worst = max(proofs, key=lambda proof: proof.kl)
            if not worst.kl <= self.limit:
                raise Unproved(over(self, worst), f"they part at {_parting(path, asked) or 'the output'}")
        return dataclasses.replace(worst, largest=max(proof.largest for proof in proofs))

    def _cached(self, network: Session, asked: Asked) -> Proof:
        """Two rows of different lengths, the last tokens one by one, beside both rows whole."""
        data: Any = asked.task.data  # type: ignore[attr-defined]  # a causal network's are tokens
        ids = np.resize(data.ids, (2, data.ids.shape[1]))
        length = ids.shape[1]
        less, steps = min(SHORTER, length // 3), min(STEPS, length // 3)
        mask = np.ones_like(ids)
        if less:
            ids[1, less:], ids[1, :less], mask[1, :less] = ids[1, :-less].copy(), 0, 0
        found = torch.from_numpy(network.cached(ids, mask, steps))
        rows = torch.cat([found[0], found[1, less:]])
        wanted = asked.outputs[[0, min(1, len(asked.outputs) - 1)]]
        held = dataclasses.replace(asked, outputs=torch.cat([wanted[0], wanted[1, : length - less]]))
        return compared(self, held, rows)


def _plain(path: Path, scratch: Path) -> Path:
    """The same graph without rounding of activations."""
    import onnx_ir as ir

    from rarefy.export.onnx_rounding import unrounded

    model = ir.load(path)
    unrounded(model)
    ir.save(model, scratch / path.name, external_data=f"{path.name}.data")
    return scratch / path.name


def _parting(path: Path, asked: Asked) -> str:
    """The first layer whose output is another one; nodes are named after their layers."""
    import onnx_ir as ir

    model = ir.load(path)
    last = {str(node.name).rpartition("/")[0]: node.outputs[0] for node in model.graph}
    wanted = {layer: values for layer, values in outputs_by_layer(asked, asked.network).items() if layer in last}
    known = list(model.graph.outputs)
    model.graph.outputs.extend(value for value in (last[layer] for layer in wanted) if value not in known)
    with tempfile.TemporaryDirectory(prefix="rarefy-proof-") as scratch:
        ir.save(model, Path(scratch) / path.name, external_data=f"{path.name}.data")
        network = Session(Path(scratch) / path.name)
        found = {}
        for layer in wanted:
            network.main = last[layer].name
            with torch.inference_mode():
                found[layer] = asked.task.outputs(network, slice(0, 1), torch.device("cpu")).float()
    return first_parted(wanted, found)
