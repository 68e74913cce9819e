"""Recovering: training what codes leave free, to make up for what coding lost."""
