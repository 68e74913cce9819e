"""What is known of a family of networks: blocks, sites, ties, output law."""

from rarefy.families.base import (
    Family,
    Kind,
    Law,
    Place,
    families,
    family_of,
    is_causal,
    outside,
    places,
    reads_tokens,
)
from rarefy.families.segments import Segments

__all__ = [
    "Family",
    "Kind",
    "Law",
    "Place",
    "Segments",
    "families",
    "family_of",
    "is_causal",
    "outside",
    "places",
    "reads_tokens",
]
