"""Atheris (libFuzzer) over `readers`: arguments are libFuzzer's."""

import sys

import atheris

with atheris.instrument_imports(include=["rarefy", "readers"]):
    import readers

atheris.Setup(sys.argv, readers.one)
atheris.Fuzz()
