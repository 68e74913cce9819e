"""Calibration and evaluation data, the one streaming walk, and the statistics collected from them."""

from rarefy.evidence.evidence import Evidence, Forgetful, Journal
from rarefy.evidence.sites import Site, relative_error
from rarefy.evidence.statistics import Moment, SecondMoment, Statistic
from rarefy.evidence.walk import Visited, walk

__all__ = [
    "Evidence",
    "Forgetful",
    "Journal",
    "Moment",
    "SecondMoment",
    "Site",
    "Statistic",
    "Visited",
    "relative_error",
    "walk",
]
