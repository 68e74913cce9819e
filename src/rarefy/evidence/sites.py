"""Sites: what a method sees of a network, one matrix at a time, and what it makes of a segment's."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes.base import matrix
from rarefy.codes.transposed import turned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rarefy.codes import Code
    from rarefy.evidence.statistics import Moment, Statistic
    from rarefy.families import Kind, Place, Segments
    from rarefy.model import Model

_ROWS = 4096  # of a matrix at once, where a temporary is as large as they are

Gathered = Mapping["Statistic", Mapping[str, Any]]
"""What was gathered of a segment: of each statistic asked for, by parameter, its value or (a string) why none."""


@dataclass(frozen=True)
class Visited:
    """What a visit made of a segment: new codes by key, notes for the history (JSON values), and of the codes those
    records that are made already."""

    codes: Mapping[str, Code]
    notes: dict[str, Any] = field(default_factory=dict)
    records: Mapping[str, bytes] = field(default_factory=dict)


Visit = Callable[["list[Site]", "Sequence[Visited]"], Visited]
"""What is done in a segment: its sites with their statistics, what the segments before made -> new codes and notes."""


@dataclass(frozen=True)
class Site:
    """One matrix view of one parameter.

    name: the parameter's key in the files.
    kind: how it is used.
    segment: label of the segment in which it is coded.
    code: how it is stored now.
    statistics: what was asked for and could be gathered.
    obstacles: what was asked for and could not, with the reason.
    original: how it was stored before the first step, for methods that correct what steps before them lost.
    turned: the parameter lies as (in, out), and codes here are of its transpose.
    """

    name: str
    kind: Kind
    segment: str
    code: Code
    statistics: Mapping[Statistic, Any] = field(default_factory=dict)
    obstacles: Mapping[Statistic, str] = field(default_factory=dict)
    original: Code | None = None
    turned: bool = False

    def oriented(self, code: Code) -> Code:
        """A code of the parameter as one of this site, and the other way round."""
        return turned(code) if self.turned else code

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter, or of its transpose."""
        return self.code.shape

    def weight(self) -> NDArray[np.float32]:
        """The matrix (out, in), float32, as stored now."""
        return self.code.decode().reshape(matrix(self.code.shape))

    def keep(self) -> NDArray[np.bool_] | None:
        """Which weights an earlier step left (out, in), or None when all."""
        support = self.code.support()
        return None if support is None else support.reshape(matrix(self.code.shape))

    def matches(self, patterns: tuple[str, ...]) -> bool:
        """Whether the name fits one of the shell patterns."""
        return any(fnmatch.fnmatchcase(self.name, pattern) for pattern in patterns)


def sites(model: Model, segments: Segments, i: int, gathered: Gathered, codes: Mapping[str, Code]) -> list[Site]:
    """The sites of segment `i`, as `codes` store them now."""
    keys = model.keys
    made = []
    for place in segments.places()[i]:
        found = {need: values.get(place.parameter, "no data were run") for need, values in gathered.items()}
        obstacles = {need: value for need, value in found.items() if isinstance(value, str)}
        statistics = {need: value for need, value in found.items() if need not in obstacles}
        key = keys[place.parameter]
        made.append(site_at(key, place, segments.names[i], codes[key], statistics, obstacles))
    return made


def site_at(
    key: str,
    place: Place,
    segment: str,
    code: Code,
    statistics: Mapping[Statistic, Any] | None = None,
    obstacles: Mapping[Statistic, str] | None = None,
) -> Site:
    """The site of a place. code: of the parameter called `key` in the files."""
    own = turned(code) if place.turned else code
    return Site(key, place.kind, segment, own, statistics or {}, obstacles or {}, turned=place.turned)


def relative_error(before: NDArray[np.float32], after: NDArray[np.float32], moment: Moment | None) -> float:
    """Squared error of the layer's output over its energy; of the weights where no moment is known."""
    energy = moment.energy if moment is not None else lambda w: float(np.vdot(w, w))
    before, after = np.atleast_1d(before, after)
    total = lost = 0.0
    for start in range(0, len(before), _ROWS):
        rows = slice(start, start + _ROWS)
        total += energy(before[rows])
        lost += energy(after[rows] - before[rows])
    return lost / total if total > 0 else 0.0
