"""Shared numerics: factorizations, affine grids, sequential rounding with feedback."""
