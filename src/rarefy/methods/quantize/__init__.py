"""Fewer levels a weight."""
