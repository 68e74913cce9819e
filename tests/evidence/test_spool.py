"""Activations come back as they were, whatever their type; damage is seen."""

import pytest
import torch

from rarefy.errors import FormatError, ResourceError
from rarefy.evidence.spool import Spool

VALUES = [
    torch.randn(2, 3),
    torch.randn(2, 3).to(torch.bfloat16),
    torch.randn(2, 3).to(torch.float16),
    torch.arange(6).reshape(2, 3),
    torch.randn(4, 3).T,
    torch.zeros(0, 3),
]


def test_values_come_back(tmp_path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.clear()
    for value in VALUES:
        spool.append(value)
    spool.seal()
    assert spool.intact(len(VALUES)) and not spool.intact(len(VALUES) - 1)
    for j, value in enumerate(VALUES):
        back = spool.load(j, "cpu")
        assert back.dtype == value.dtype and torch.equal(back, value)
    spool.discard()
    assert not (tmp_path / "spool").exists()


def test_damage_is_seen(tmp_path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.clear()
    spool.append(torch.ones(8))
    assert not spool.intact(1)
    spool.seal()
    file = tmp_path / "spool" / "0.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\x01")
    assert not spool.intact(1)
    file.write_bytes(whole[:50])
    assert not spool.intact(1)
    with pytest.raises(FormatError, match="spooled activations 0 cannot be read"):
        spool.load(0, "cpu")
    (tmp_path / "spool" / "sums.json").write_text("7")
    assert not spool.intact(1)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="its folder is a file"):
        Spool(tmp_path / "file" / "spool").clear()
