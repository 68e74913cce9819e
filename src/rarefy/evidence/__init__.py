"""Calibration and evaluation data, the one streaming walk, and the statistics collected from them."""

from rarefy.evidence.curvature import Curvature, Kronecker
from rarefy.evidence.evidence import Evidence, Forgetful, Journal
from rarefy.evidence.ranges import Ranges
from rarefy.evidence.sites import Site, Visited, relative_error
from rarefy.evidence.statistics import Moment, Outputs, SecondMoment, Statistic
from rarefy.evidence.survey import survey
from rarefy.evidence.surveyed import Surveyed, kept
from rarefy.evidence.walk import walk

__all__ = [
    "Curvature",
    "Evidence",
    "Forgetful",
    "Journal",
    "Kronecker",
    "Moment",
    "Outputs",
    "Ranges",
    "SecondMoment",
    "Site",
    "Statistic",
    "Surveyed",
    "Visited",
    "kept",
    "relative_error",
    "survey",
    "walk",
]
