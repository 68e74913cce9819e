"""What a run will take, said before it starts: memory and disk. Estimates, and checked against what there is."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rarefy.codes import Dense
from rarefy.codes.dtypes import dtype_of
from rarefy.errors import ResourceError, UsageError
from rarefy.evidence import Evidence, Site
from rarefy.evidence.statistics import moment_obstacle
from rarefy.families import Segments
from rarefy.measure import memory
from rarefy.method import PerTensor
from rarefy.model import shape_of
from rarefy.units import human

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rarefy.families import Place
    from rarefy.model import Model
    from rarefy.plan.output import Output
    from rarefy.plan.trace import Trace
    from rarefy.recipe import Recipe

LIBRARIES = 64_000_000
"""What numerical libraries take for themselves once they compute."""

CODING = 24
"""Bytes a weight of the matrix that is coded: its values, what is left to round, what was rounded, the error."""

FACTORING = 64
"""Bytes an entry of a second moment while it is factored: some eight copies in float64."""

WRITING = 4
"""Copies of a tensor while it is written: its elements, their planes, the tiles, the record."""


@dataclass(frozen=True)
class Needs:
    """Estimates in bytes.

    memory: above what the process holds already. disk: in the work folder, at most. reads: of the network;
    writes: of weight files, at most.
    """

    memory: int
    disk: int
    reads: int
    writes: int


def predict(model: Model, recipe: Recipe, inputs: NDArray[Any] | None, dtype: str, device: str = "cpu") -> Needs:
    """What applying a recipe will take. inputs: for calibration, None when the recipe needs none.

    Raises UsageError when the network does not take such inputs.
    """
    plan = _Plan(model, recipe)
    reads, writes = model_bytes(model), plan.written()
    taken, spooled = plan.at_rest(), 0
    if inputs is not None:
        evidence = Evidence(inputs, device=device, dtype=dtype)
        batches = evidence.micro_batches()
        trace = plan.trace(batches[0], evidence)
        walked = plan.walk(trace, evidence.torch_dtype.itemsize, len(batches), device == "cpu")
        taken = max(taken, walked + sum(batch.nbytes for batch in batches))
        # What a segment reads and what it writes; the journal and the records hold the codes beside.
        spooled = 2 * trace.value * len(batches)
    return Needs(LIBRARIES + taken, 3 * writes + spooled, reads, writes)


class _Plan:
    """A model and a recipe, as far as shapes tell."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self.model, self.keys = model, model.keys
        self.shapes = {name: shape_of(model.codes, key) for name, key in self.keys.items()}
        self.numel = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.segments = Segments(model.skeleton)
        self.methods = [method for method in recipe.methods if isinstance(method, PerTensor)]
        self.all_coded = len(self.methods) < len(recipe.methods)

    def trace(self, batch: Any, evidence: Evidence) -> Trace:
        from rarefy.plan.trace import Trace

        try:
            return Trace(self.segments, self.shapes, batch, evidence.torch_dtype)
        except Exception as error:
            shape = "x".join(map(str, batch.shape[1:]))
            raise UsageError(f"{self.model.source} does not take examples of {shape}", str(error)) from None

    def coded(self, place: Place) -> bool:
        """Whether a method takes a place, for all that can be known before."""
        shape = self.shapes[place.parameter]
        key = self.keys[place.parameter]
        site = Site(key, place.kind, "", Dense(lambda: None, shape, dtype_of("F32")))  # type: ignore[arg-type,return-value]
        return self.all_coded or any(not method.declines(site) for method in self.methods)

    def at_rest(self) -> int:
        """Memory of coding and of writing the largest tensor."""
        coding = max((self.numel[p.parameter] for ps in self.segments.places() for p in ps if self.coded(p)), default=0)
        stored = max((self._stored(key) for key in self.model.codes), default=0)
        return max(CODING * coding, WRITING * stored)

    def walk(self, trace: Trace, itemsize: int, batches: int, on_host: bool) -> int:
        """Memory of the hungriest segment."""
        return trace.calls * batches * on_host + max(
            self._segment(i, trace, itemsize, on_host) for i in range(len(self.segments))
        )

    def _segment(self, i: int, trace: Trace, itemsize: int, on_host: bool) -> int:
        module = self.segments.module
        names = {self.keys[name]: self.numel[name] for name in self.segments.tensor_names(i) if name in self.keys}
        weights = itemsize * sum(names.values()) * on_host
        places = [place for place in self.segments.places()[i] if self.coded(place)]
        coded = [self.numel[place.parameter] for place in places]
        paths = [path for place in places for path in place.modules if not moment_obstacle(module.get_submodule(path))]
        if not paths and i == len(self.segments) - 1:
            return weights
        run = trace.run(i, paths)
        moments = [width * width for width in run.moments]
        sums = 4 * sum(moments)
        gathering = weights + max(sums + run.activations * on_host, 2 * sums)
        # Each moment's factor is kept, in float32, until the segment is done.
        visiting = (
            weights + 2 * sums + sum(coded) + max(FACTORING * max(moments, default=0), CODING * max(coded, default=0))
        )
        return max(gathering, visiting)

    def written(self) -> int:
        """Bytes of the weight files: a byte for a weight that is coded, its own type for others."""
        coded = {self.keys[p.parameter] for places in self.segments.places() for p in places if self.coded(p)}
        codes = self.model.codes
        return sum(math.prod(shape_of(codes, key)) if key in coded else self._stored(key) for key in codes)

    def _stored(self, key: str) -> int:
        return math.prod(shape_of(self.model.codes, key)) * dtype_of(self.model.dtypes[key]).size


def model_bytes(model: Model) -> int:
    """Bytes of the tensors in their own element types."""
    return sum(math.prod(shape_of(model.codes, key)) * dtype_of(model.dtypes[key]).size for key in model.codes)


def check(needs: Needs, output: Output, held: int = 0) -> None:
    """Raise ResourceError when memory or disk are too small for what a run needs.

    held: bytes that an earlier run left in the work folder, to be used again.
    """
    free = memory.available()
    if needs.memory > free:
        raise ResourceError(
            f"this run needs about {human(needs.memory)} of memory",
            f"{human(free)} are available",
            "close other programs, raise the container's limit, or calibrate on fewer tokens (--blocks)",
        )
    work, out = _existing(output.work), _existing(output.path.parent)
    _check_disk(work, needs.disk - held, "or choose another folder with --work-dir")
    if work.stat().st_dev != out.stat().st_dev:
        _check_disk(out, needs.writes, "or choose another output")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_disk(folder: Path, needed: int, otherwise: str) -> None:
    left = shutil.disk_usage(folder).free
    if needed > left:
        raise ResourceError(
            f"this run needs about {human(needed)} of disk in {folder}",
            f"{human(left)} are free",
            f"free some, {otherwise}",
        )
