"""Fewer dimensions a matrix."""
