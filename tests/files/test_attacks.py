"""Every attack is refused with one line, in memory that docs/format.md bounds."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attacks import ATTACKS, KINDS
from attacks.heavy import HEAVY, ZEROS
from attacks.networks import whole

from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.files.container import Reader, holds_records
from rarefy.files.directory import TensorDirectory
from rarefy.opening import open_model

FILES, NETWORK, ELEMENT, BASE = 64, 2048, 16, 16_000_000
"""Bytes of memory for a byte of the files, for one of those that are opened as a network, for an element that is
restored, and for anything at all: docs/format.md says them."""


def enter(folder: Path) -> None:
    """What a victim does: open all that is in a folder, and look at every number."""
    if (folder / "config.json").exists():
        open_model(folder).module()
    elif holds_records(folder):
        reader = Reader(folder)
        try:
            for name in reader.names():
                reader.code(name)[0].decode()
        finally:
            reader.close()
    else:
        tensors = TensorDirectory(folder)
        for name in tensors.entries:
            tensors.raw(name)
        tensors.close()


def test_every_kind_is_there() -> None:
    assert {attack.kind for attack in ATTACKS.values()} == set(KINDS)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_with_one_line(name: str, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    attack.make(tmp_path)
    with pytest.raises((FormatError, UsageError)) as raised:
        enter(tmp_path)
    line = str(raised.value)
    assert re.search(attack.told, line)
    assert "\n" not in line
    assert len(line) < 600


def measure(folder: Path) -> None:
    """In a process of its own: print by how many bytes its memory rises at most while it enters each folder in here."""
    for place in sorted(folder.iterdir()):
        if os.fork() == 0:  # the libraries are there already, and nothing is left to be used again
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
            with contextlib.suppress(RarefyError):
                enter(place)
            print(place.name, resident("VmHWM") - before, flush=True)
            os._exit(0)
        assert os.wait()[1] == 0


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_memory_is_bounded_by_the_size_of_the_files(tmp_path: Path) -> None:
    makers = {name: attack.make for name, attack in ATTACKS.items()} | HEAVY
    names = {f"{i:03}": name for i, name in enumerate(makers)}
    for place, name in names.items():
        (tmp_path / "made" / place).mkdir(parents=True)
        makers[name](tmp_path / "made" / place)
    whole(tmp_path)
    here = Path(__file__).parent
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_attacks as t;"
    code += "t.enter(Path(sys.argv[2])); t.measure(Path(sys.argv[2]) / 'made')"
    done = subprocess.run([sys.executable, "-c", code, here, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    peaks = {names[place]: int(peak) for place, peak in map(str.split, done.stdout.splitlines())}
    assert set(peaks) == set(makers)
    for place, name in names.items():
        files = [file for file in (tmp_path / "made" / place).iterdir() if file.is_file()]
        factor = NETWORK if any(file.name == "config.json" for file in files) else FILES
        elements = ZEROS if name == "zeros" else 0
        assert peaks[name] < BASE + factor * sum(file.stat().st_size for file in files) + ELEMENT * elements, name


def test_the_page_says_the_factors() -> None:
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    assert f"{BASE // 10**6} MB and {FILES} bytes for each byte" in page
    assert f"{NETWORK:,} as a network" in page
    assert f"{ELEMENT} bytes an element" in page
