"""How one tensor is stored."""

from rarefy.codes.base import Array, Code, Node, Source, kinds
from rarefy.codes.codebook import Codebook
from rarefy.codes.dense import Dense
from rarefy.codes.grid import Grid
from rarefy.codes.sparse import Sparse

__all__ = ["Array", "Code", "Codebook", "Dense", "Grid", "Node", "Source", "Sparse", "kinds"]
