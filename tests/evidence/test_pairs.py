"""Scored pairs from files, and the lines that are none."""

from pathlib import Path

import numpy as np
import pytest

from rarefy.errors import FormatError
from rarefy.evidence.pairs import holds_pairs, pairs_of
from rarefy.evidence.sources import Text, read_text

STS = Path(__file__).parents[3] / "shared/data/sts/sts-test.tsv.xz"


def words(text, *, max_length, **_):
    return {"input_ids": [len(word) for word in text.split()][:max_length]}


def test_three_columns():
    text = Text(('4.5\tA dog runs.\tThe dog "runs\n0\tA b c d e f\tx\n\n',), "t.tsv")
    found = pairs_of(text, words, length=5)
    assert found.scores.tolist() == [4.5, 0.0]
    assert [ids.tolist() for ids in found.first.ids] == [[1, 3, 5], [1, 1, 1, 1, 1]]
    assert [ids.tolist() for ids in found.second.ids] == [[3, 3, 5], [1]]
    assert 'The dog "runs' in found.text
    assert "A b c" in found.text
    assert len(pairs_of(text, words, limit=1).scores) == 1


@pytest.mark.parametrize("line", ["score\ta\tb", "1.0\ta", "nan\ta\tb", "1\ta\tb\tc", "just text"])
def test_a_line_that_is_no_pair_is_named(line):
    with pytest.raises(FormatError, match="line 2 of t.tsv is no scored pair"):
        pairs_of(Text((f"1.0\ta\tb\n{line}",), "t.tsv"), words)


def test_nothing_at_all():
    with pytest.raises(FormatError, match="no pairs"):
        pairs_of(Text(("\n",), "t.tsv"), words)


def test_which_files():
    assert holds_pairs("a/sts-test.TSV.xz")
    assert holds_pairs(Path("pairs.tsv"))
    assert not holds_pairs("pairs.txt")


@pytest.mark.skipif(not STS.exists(), reason="needs ../shared/data/sts")
def test_stsb_as_it_comes():
    found = pairs_of(read_text([STS]), words)
    assert len(found.scores) == len(found.first.ids) == len(found.second.ids) == 1379
    assert found.scores[0] == 2.5
    assert found.text.startswith("A girl is styling her hair.\n\nA group of men play soccer")
    assert (np.array([found.scores.min(), found.scores.max()]) == [0, 5]).all()
