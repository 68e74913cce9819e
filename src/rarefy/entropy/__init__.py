"""Integer symbols <-> bytes: streams, and the coders that write them."""

from rarefy.entropy.stream import Coder, Stream, coder, coders

__all__ = ["Coder", "Stream", "coder", "coders"]
