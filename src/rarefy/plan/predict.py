"""What a run will take, said before it starts: memory and disk. Estimates, and checked against what there is."""

from __future__ import annotations

import functools
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.base import matrix
from rarefy.codes.dtypes import dtype_of
from rarefy.errors import ResourceError, UsageError
from rarefy.evidence import Curvature, Evidence, Site
from rarefy.evidence.statistics import moment_obstacle
from rarefy.evidence.survey import SHARE
from rarefy.families import Segments
from rarefy.measure import memory
from rarefy.method import Latent, PerTensor, Tuner
from rarefy.model import shape_of
from rarefy.units import human

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from rarefy.families import Place
    from rarefy.model import Model
    from rarefy.plan.output import Output
    from rarefy.plan.trace import Traced
    from rarefy.recipe import Recipe

LIBRARIES = 20_000_000
"""What numerical libraries take for themselves once they compute."""

CODING = 20
"""Bytes a weight of the matrix that is coded: its values, what is left to round, what was rounded, the error."""

FACTORING = 32
"""Bytes an entry of a second moment while it is factored: three copies in float64, two in float32."""

SURVEYING = 32
"""Bytes a weight of the matrix that a survey forecasts: its values, and the rounding of a sample."""

CODED, FED_BACK, SURVEYED = 1e-7, 4e-7, 1e-6
"""Processor seconds a weight beside the network's products: coded and written; rounded a column at a time after its
second moment was factored; surveyed, forecast and disturbed."""

WRITING = 3
"""Copies of a tensor while it is written: its elements, their planes, the coded tiles."""


@dataclass(frozen=True)
class Needs:
    """Estimates in bytes.

    memory: above what the process holds already. disk: in the work folder, at most. reads: of the network;
    writes: of weight files, at most. seconds: of the processor, all threads together; on a device, its own too.
    """

    memory: int
    disk: int
    reads: int
    writes: int
    seconds: float


def predict(model: Model, recipe: Recipe, inputs: NDArray[Any] | None, dtype: str, device: str = "cpu") -> Needs:
    """What applying a recipe will take. inputs: for calibration, None when the recipe needs none.

    Raises UsageError when the network does not take such inputs.
    """
    plan = _Plan(model, recipe)
    writes, taken, products, spooled, each = plan.written(), plan.at_rest(), 0.0, 0, CODED
    disk = 3 * writes
    if inputs is not None:
        evidence = Evidence(inputs, device=device, dtype=dtype)
        size, on_host = evidence.torch_dtype.itemsize, device == "cpu"
        batches = evidence.micro_batches()
        traced = plan.trace(batches[0], evidence)
        held = sum(batch.nbytes for batch in batches)
        taken = max(taken, held + plan.walk(traced, size, len(batches), on_host))
        # What a segment reads and what it writes.
        spooled = 2 * max(segment.value for segment in traced) * len(batches)
        forward = len(batches) * sum(segment.products for segment in traced)
        products, each = 2 * forward, CODED + FED_BACK
        if Curvature() in recipe.statistics:
            batches = evidence.micro_batches(SHARE)
            traced = plan.trace(batches[0], evidence, backwards=True)
            taken = max(taken, held + plan.survey(traced, size, len(batches), on_host))
            # What flows into every segment, gradients on both sides of one; the metric of each matrix stays.
            values = [segment.value for segment in traced]
            spooled = max(spooled, (sum(values) + 2 * max(values)) * len(batches))
            disk += plan.metrics()
            products += 3 * forward
            each += SURVEYED
        tuned = (held + tuner.memory(model, evidence) for tuner in recipe.flat() if isinstance(tuner, Tuner | Latent))
        taken = max([taken, *tuned])
    # The codes are in the journal, in records for the container, and in OUT.
    seconds = products / _speed(dtype) + each * plan.coded()
    return Needs(LIBRARIES + taken, disk + spooled, model_bytes(model), writes, seconds)


@functools.cache
def _speed(dtype: str) -> float:
    """Operations that a processor second makes in products of this type, measured."""
    import torch

    a, b = (torch.ones(size, 768, dtype=getattr(torch, dtype)) for size in (512, 1024))
    a @ b.T
    began, count = memory.cpu_seconds(), 0
    while memory.cpu_seconds() - began < 0.05:
        a @ b.T
        count += 1
    return 2 * count * 512 * 768 * 1024 / (memory.cpu_seconds() - began)


class _Plan:
    """A model and a recipe, as far as shapes tell."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self.model, self.keys = model, model.keys
        self.shapes = {name: shape_of(model.codes, key) for name, key in self.keys.items()}
        self.numel = {key: math.prod(shape_of(model.codes, key)) for key in model.codes}
        self.segments = Segments(model)
        methods = [method for method in recipe.methods if isinstance(method, PerTensor)]
        known = len(methods) == len(recipe.methods)
        self.places = [
            [place for place in places if not known or any(not m.declines(self._site(place)) for m in methods)]
            for places in self.segments.places()
        ]

    def _site(self, place: Place) -> Site:
        """A place as methods see it, without values."""
        code = Dense(lambda: np.empty(0), self.shapes[place.parameter], dtype_of("F32"))
        return Site(self.keys[place.parameter], place.kind, "", code)

    def _paths(self, i: int) -> list[str]:
        """Layers of segment `i` whose second moment is gathered."""
        find = self.segments.module.get_submodule
        return [path for place in self.places[i] for path in place.modules if not moment_obstacle(find(path))]

    def trace(self, batch: torch.Tensor, evidence: Evidence, backwards: bool = False) -> list[Traced]:
        """Every segment on one micro-batch."""
        from rarefy.plan.trace import trace

        tensors = {name: (key, self.shapes[name]) for name, key in self.keys.items()}
        gather = [path for i in range(len(self.places)) for path in self._paths(i)]
        segments = self.segments
        try:
            return trace(segments.module, tensors, segments.layout, gather, batch, evidence.torch_dtype, backwards)
        except Exception as error:
            shape = " x ".join(map(str, batch.shape[1:]))
            raise UsageError(f"{self.model.source} does not take examples of {shape}", str(error)) from None

    def at_rest(self) -> int:
        """Memory of coding and of writing the largest tensor."""
        coding = max((self._size(place) for places in self.places for place in places), default=0)
        stored = max((self._stored(key) for key in self.numel), default=0)
        return max(CODING * coding, WRITING * stored)

    def walk(self, traced: list[Traced], itemsize: int, batches: int, on_host: bool) -> int:
        """Memory of the hungriest segment."""
        beside = batches * max(segment.beside for segment in traced) * on_host
        self._give_outside(traced)
        outside = self._weights(traced[-1].modules, itemsize) * on_host
        segments = (self._segment(i, segment, itemsize, on_host) for i, segment in enumerate(traced))
        return beside + max(outside, *segments)

    def _give_outside(self, traced: list[Traced]) -> None:
        """The last segment is given all that is outside the blocks, and so is the first look at how they are fed; those
        before it all that runs up to the last block."""
        *before, last = (segment for segment, block in zip(traced, self.segments.layout, strict=True) if block is None)
        ran = {path for segment in before for path in segment.modules}
        for segment in before:
            segment.modules |= ran
        last.modules |= ran

    def survey(self, traced: list[Traced], itemsize: int, batches: int, on_host: bool) -> int:
        """Memory of the hungriest segment of a survey."""
        beside = batches * max(segment.beside for segment in traced) * on_host
        self._give_outside(traced)
        return beside + max(self._surveyed(i, segment, itemsize, on_host) for i, segment in enumerate(traced))

    def _surveyed(self, i: int, traced: Traced, itemsize: int, on_host: bool) -> int:
        coded = [self._size(place) for place in self.places[i]]
        moments = [width * width for width in traced.moments]
        # Gradients: with respect to the outputs, to what flows in, and one more on the way.
        gradients = traced.output + 3 * traced.value
        running = (self._weights(traced.modules, itemsize) + traced.activations + gradients) * on_host
        visiting = 2 * sum(coded) + max(FACTORING * max(moments, default=0), SURVEYING * max(coded, default=0))
        return 4 * sum(moments) + max(running, visiting)

    def coded(self) -> int:
        """Weights that a method takes."""
        return sum(self._size(place) for places in self.places for place in places)

    def metrics(self) -> int:
        """Bytes of what a survey leaves of each matrix that a method takes: 2 an entry of U, 4 a row."""
        total = 0
        for place in (place for places in self.places for place in places):
            sides = matrix(self.shapes[place.parameter])
            out, width = reversed(sides) if place.turned else sides
            total += 2 * width**2 + 4 * out
        return total

    def _segment(self, i: int, traced: Traced, itemsize: int, on_host: bool) -> int:
        coded = [self._size(place) for place in self.places[i]]
        moments = [width * width for width in traced.moments]
        sums = 4 * sum(moments)
        if i == len(self.places) - 1 and not moments:
            return 0  # it is not run
        gathering = (self._weights(traced.modules, itemsize) + traced.activations) * on_host + sums
        # Each moment's factor is kept, in float32, until the segment is done.
        visiting = 2 * sums + sum(coded) + max(FACTORING * max(moments, default=0), CODING * max(coded, default=0))
        return max(gathering, 2 * sums, visiting)

    def _weights(self, modules: set[str], itemsize: int) -> int:
        keys = {key for name, key in self.keys.items() if name.rpartition(".")[0] in modules}
        return itemsize * sum(self.numel[key] for key in keys)

    def _size(self, place: Place) -> int:
        return self.numel[self.keys[place.parameter]]

    def written(self) -> int:
        """Bytes of the weight files: a byte for a weight that is coded, its own type for others."""
        coded = {self.keys[place.parameter] for places in self.places for place in places}
        return sum(self.numel[key] if key in coded else self._stored(key) for key in self.numel)

    def _stored(self, key: str) -> int:
        return self.numel[key] * dtype_of(self.model.dtypes[key]).size


def model_bytes(model: Model) -> int:
    """Bytes of the tensors in their own element types."""
    return sum(math.prod(shape_of(model.codes, key)) * dtype_of(model.dtypes[key]).size for key in model.codes)


def check(needs: Needs, output: Output, held: int = 0, processes: int = 1) -> None:
    """Raise ResourceError when memory or disk are too small for what a run needs.

    held: bytes that an earlier run left in the work folder, to be used again. processes: of this run on this machine.
    """
    free, taken = memory.available(), processes * needs.memory
    if taken > free:
        raise ResourceError(
            f"this run needs about {human(taken)} of memory",
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
