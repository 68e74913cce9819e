"""docs/format.md is enough to write a reader from: the one in `page`, `page_coders`
and `page_files` opens every golden file."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import page
import page_files
import pytest

RECORDS = sorted(path.stem for path in golden.FOLDER.glob("*.record"))


def test_every_golden_file_is_known() -> None:
    assert sorted([*golden.CODES, *golden.DIFFERENCES]) == RECORDS


@pytest.mark.parametrize("file", ["page.py", "page_coders.py", "page_files.py"])
def test_the_reader_is_short_and_knows_nothing_of_the_package(file: str) -> None:
    text = (Path(__file__).parent / file).read_text()
    assert len(text.splitlines()) <= 150
    assert "rarefy." not in text and "import rarefy" not in text


@pytest.mark.parametrize("name", sorted(golden.CODES))
def test_reads_golden_records(name: str) -> None:
    read, dtype = page.record((golden.FOLDER / f"{name}.record").read_bytes())
    code, original = golden.CODES[name]()
    assert golden.NUMBERS[original] == dtype
    np.testing.assert_array_equal(read, code.decode())
    assert read.shape == code.shape


@pytest.mark.parametrize("name", sorted(golden.DIFFERENCES))
def test_reads_golden_differences(name: str) -> None:
    values, base, dtype, _ = golden.DIFFERENCES[name]()
    bits = base.reshape(-1).view(f"<u{base.itemsize}").astype(np.uint64)
    read, number = page.record((golden.FOLDER / f"{name}.record").read_bytes(), bits)
    assert number == golden.NUMBERS[dtype.name]
    np.testing.assert_array_equal(read, golden.dense(values, dtype).decode())


@pytest.mark.parametrize("name", sorted(golden.ARTIFACTS))
def test_reads_golden_artifacts(name: str) -> None:
    read = page_files.artifact(golden.FOLDER / name)
    assert set(read) == set(golden.PARAMETERS)
    for key, (values, dtype) in read.items():
        code, original = golden.CODES[golden.PARAMETERS[key]]()
        np.testing.assert_array_equal(values, code.decode())
        assert (values.shape, dtype) == (code.shape, golden.NUMBERS[original])
