"""What was written is what was made: read back before OUT appears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from rarefy.codes import Dense
from rarefy.errors import FormatError
from rarefy.files import record
from rarefy.plan.compress import compress
from rarefy.plan.write import write_artifact
from rarefy.progress import Silent
from rarefy.recipe import Recipe


def test_a_record_that_reads_back_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encode = tiny.opened("chain"), record.encode

    def spoiled(code, dtype, *more, **named):
        values = code.decode()
        values[..., -1] = np.nextafter(values[..., -1], np.float32(9))
        return encode(Dense.of(values), dtype, *more, **named)

    recipe = Recipe.from_arguments(["quantize.rtn"])
    write_artifact(model, tmp_path / "right", recipe, {}, tmp_path / "scratch", 1, Silent())
    monkeypatch.setattr(record, "encode", spoiled)
    with pytest.raises(FormatError, match="reads back as another tensor than was written"):
        write_artifact(model, tmp_path / "wrong", recipe, {}, tmp_path / "scratch", 1, Silent())
    assert not (tmp_path / "wrong" / "manifest.json").exists()
    with pytest.raises(FormatError, match="reads back"):
        compress(model, tmp_path / "out", ["quantize.rtn:group=8"])
    assert not (tmp_path / "out").exists()
