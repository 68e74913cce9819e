"""Passes over a network, a segment at a time, with what flows between the segments on disk.

Resident at any time: one segment's weights, one micro-batch of activations, and what is gathered of that segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rarefy.evidence.sites import Gathered, Visit, Visited, sites
from rarefy.evidence.spool import Spool
from rarefy.families.carried import Call
from rarefy.families.values import NotAChain, model_inputs, to_device
from rarefy.model import decoded_by_name
from rarefy.processes import Processes

if TYPE_CHECKING:
    import torch

    from rarefy.codes import Code
    from rarefy.evidence.evidence import Evidence
    from rarefy.families import Segments
    from rarefy.model import Model


class Passes(ABC):
    """What a pass forwards and one backwards share.

    processes: those that share the micro-batches. numbers: of the micro-batches that are this one's, `batches`.
    calls: per micro-batch, what each block is called with beside the running value.
    codes: what a finished segment made stands before what was there; nothing is read until it is asked for.
    """

    def __init__(
        self,
        model: Model,
        segments: Segments,
        evidence: Evidence,
        visit: Visit,
        name: str,
        share: int = 1,
        *,
        every: bool = False,
    ) -> None:
        """share: of the usual micro-batch, that part. every: each process is to run all of them, as it does where
        they are fewer than the processes."""
        self.model, self.segments, self.evidence, self.visit, self.name = model, segments, evidence, visit, name
        self.codes = ChainMap[str, Any]({}, model.codes)  # type: ignore[arg-type]
        self.keys = model.keys
        self.calls: list[list[Call]] = []
        batches = evidence.micro_batches(share)
        every = every or len(batches) < evidence.processes.world
        self.processes = Processes() if every else evidence.processes
        self.numbers = self.processes.share(range(len(batches)))
        self.batches = [batches[j] for j in self.numbers]
        self.inputs = [model_inputs(segments.module, batch) for batch in self.batches]
        if segments.blocks:
            segments.probe(self._tensors(len(segments) - 1), to_device(self.inputs[0], evidence.device))

    def run(self) -> list[Visited]:
        """Visit every segment; what each visit made, in order. A network that turns out no chain is one segment."""
        import torch

        with torch.no_grad():
            try:
                return self._noted()
            except NotAChain as error:
                self.segments.one_segment(str(error))
                self.codes = ChainMap[str, Any]({}, self.model.codes)  # type: ignore[arg-type]
                self.calls.clear()
                return self._noted()

    def _noted(self) -> list[Visited]:
        if self.segments.reason:
            self.evidence.progress.note(f"one segment, held in memory whole: {self.segments.reason}")
        return self._run_all()

    @abstractmethod
    def _run_all(self) -> list[Visited]:
        """Raises NotAChain when the network is none, before anything was visited."""

    def _step(self, i: int) -> str:
        return f"{self.name}-{i:04d}" if self.segments.blocks else f"{self.name}-whole"

    def _visited(self, i: int, gathered: Gathered, made: list[Visited]) -> Visited:
        """Have the first process visit segment `i`, and note down what it made of it."""
        visited = Visited({})
        if self.evidence.processes.first:
            visited = self.visit(sites(self.model, self.segments, i, gathered, self.codes), made)
        return self.evidence.journal.save(self._step(i), visited)

    def _spool(self, i: int, what: str = "activations") -> Spool:
        """What comes out of segment `i` in this process."""
        return Spool(self.evidence.journal.scratch(f"{self._step(i)}-{what}-{self.evidence.processes.rank}"))

    def _feed(self, i: int, tensors: Mapping[str, torch.Tensor], advance: Callable[[int], None] | None = None) -> None:
        """Run segment `i` and spool what comes out, for the next one."""
        spool = self._spool(i)
        spool.clear()
        for j in range(len(self.batches)):
            spool.append(self._run(i, tensors, j))
            if advance is not None:
                advance(1)
        spool.seal()

    def _learn_calls(self) -> None:
        """Run the network's first part for the blocks' other arguments alone."""
        tensors = self._tensors(0)
        self.calls = [self.segments.head(tensors, to_device(given, self.evidence.device))[1] for given in self.inputs]

    def _tensors(self, i: int, codes: Mapping[str, Code] | None = None) -> dict[str, torch.Tensor]:
        names, evidence = self.segments.tensor_names(i), self.evidence
        held = self.codes if codes is None else codes
        return decoded_by_name(held, self.keys, names, evidence.device, evidence.torch_dtype)

    def _value(self, i: int, j: int) -> torch.Tensor | None:
        """What segment i is fed with on micro-batch j; None for the first, which reads the inputs."""
        return self._spool(i - 1).load(j, self.evidence.device) if i > 0 else None

    def _run(self, i: int, tensors: Mapping[str, torch.Tensor], j: int, value: torch.Tensor | None = None) -> Any:
        """Segment i on micro-batch j: the running value after it. value: fed to it, left out that of the spool."""
        inputs = to_device(self.inputs[j], self.evidence.device)
        if not self.segments.blocks:
            return self.segments.whole(tensors, inputs)
        if i == 0:
            made, calls = self.segments.head(tensors, inputs)
            if len(self.calls) <= j:
                self.calls.append(calls)
            else:
                self.calls[j] = calls
            return made
        value = self._value(i, j) if value is None else value
        assert value is not None  # i > 0
        return self.segments.run(i, tensors, inputs, value, self.calls[j], check=j == 0)
