"""How one tensor is stored: dense, grid, sparse."""

from rarefy.codes.base import Array, Code, Node, Source, kinds
from rarefy.codes.dense import Dense
from rarefy.codes.grid import Grid
from rarefy.codes.sparse import Sparse

__all__ = ["Array", "Code", "Dense", "Grid", "Node", "Source", "Sparse", "kinds"]
