"""What a survey leaves for the walk after it: the curvature of every matrix, on disk with the survey's notes."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from rarefy.codes import Dense
from rarefy.evidence.curvature import Curvature, Kronecker
from rarefy.evidence.statistics import Moment, SecondMoment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rarefy.codes import Code
    from rarefy.evidence.sites import Site, Visited


def kept(sites: Sequence[Site]) -> tuple[dict[str, Code], dict[str, Any]]:
    """Codes and notes from which `Surveyed` knows the curvature of these sites.

    Moments only where they are not those of the inputs, which the walk gathers again as they have drifted: of lookups,
    and where a law is of a whole example.
    """
    codes: dict[str, Code] = {}
    notes: dict[str, Any] = {}
    for site in sites:
        uses = site.statistics.get(Curvature(), ())
        own = any(use.moment is not site.statistics.get(SecondMoment()) for use in uses)
        notes[site.name] = [[use.kind, use.count, own] for use in uses] or site.obstacles.get(Curvature(), "")
        for i, use in enumerate(uses):
            codes[_rows(site.name, i)] = Dense.of(use.rows)
            if own:
                codes[_moment(site.name, i)] = Dense.of(use.moment.s)
    return codes, notes


class Surveyed:
    """The curvature that a survey found."""

    def __init__(self, made: Sequence[Visited], note: str) -> None:
        """made: what `kept` made of the segments, its notes under `note`."""
        self._codes = ChainMap[str, Any](*(visited.codes for visited in made))  # type: ignore[arg-type]
        self._notes = dict(item for visited in made for item in visited.notes[note].items())

    def joined(self, site: Site) -> Site:
        """The site with its curvature, under the second moment that was gathered now, or with the reason for none."""
        noted = self._notes.get(site.name, "the survey never reached it")
        if isinstance(noted, str):
            return dataclasses.replace(site, obstacles={**site.obstacles, Curvature(): noted})
        uses = []
        for i, (kind, count, own) in enumerate(noted):
            if own:
                moment = Moment(self._codes[_moment(site.name, i)].decode(), count)
            elif SecondMoment() in site.statistics:
                moment = site.statistics[SecondMoment()]
            else:
                reason = site.obstacles[SecondMoment()]
                return dataclasses.replace(site, obstacles={**site.obstacles, Curvature(): reason})
            uses.append(Kronecker(kind, self._codes[_rows(site.name, i)].decode(), moment))
        return dataclasses.replace(site, statistics={**site.statistics, Curvature(): tuple(uses)})


def _rows(name: str, use: int) -> str:
    return f"{name} rows {use}"


def _moment(name: str, use: int) -> str:
    return f"{name} moment {use}"
