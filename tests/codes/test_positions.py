"""Positions: gaps counted one by one, any support there and back, fewer bytes than a bit plane where runs are long."""

import numpy as np
import pytest

from rarefy.codes import Dense, Sparse
from rarefy.codes.positions import PASS, Positions, gaps
from rarefy.files import record


def literal(keep: np.ndarray) -> list[int]:
    found, run = [], 0
    for here in keep.reshape(-1):
        if here:
            found.append(run)
            run = 0
        else:
            run += 1
            if run == PASS:
                found.append(PASS)
                run = 0
    while found and found[-1] == PASS:  # nothing stands after them
        found.pop()
    return found


@pytest.mark.parametrize("density", [0.0, 0.003, 0.08, 0.5, 1.0])
def test_there_and_back(density: float) -> None:
    random = np.random.default_rng(1)
    keep = random.random((40, 100)) < density
    keep[3] = False
    assert gaps(keep).tolist() == literal(keep)
    code = Positions(keep, Dense.of(np.where(keep, random.normal(size=keep.shape), 0).astype(np.float32)))
    made, _ = record.decode(record.encode(code, "F32", "huffman"))
    assert isinstance(made, Positions)
    assert np.array_equal(made.decode(), code.decode()) and np.array_equal(made.support(), keep)


@pytest.mark.parametrize("run", [0, 1, 254, 255, 256, 509, 510, 511, 1020])
def test_long_runs(run: int) -> None:
    keep = np.zeros(run + 2, bool)
    keep[[0, run + 1]] = True
    assert gaps(keep).tolist() == literal(keep) == [0, *[PASS] * (run // PASS), run % PASS]
    made, _ = record.decode(record.encode(Positions(keep, Dense.of(keep.astype(np.float32))), "F32"))
    assert np.array_equal(made.support(), keep)


def test_it_stays_what_it_is() -> None:
    keep = np.random.default_rng(2).random((9, 9)) < 0.5
    code = Positions(keep, Sparse(keep.T, Dense.of(np.ones((9, 9), np.float32))))
    assert isinstance(code.with_free(code.free()), Positions)
    masked = code.masked(np.eye(9, dtype=bool))
    assert isinstance(masked, Positions) and isinstance(masked.inner, Dense)
    assert np.array_equal(masked.decode(), np.eye(9) * keep)


def test_columns_that_are_empty_cost_less_than_in_a_bit_plane() -> None:
    keep = np.random.default_rng(3).random((300, 784)) < 0.1
    keep.reshape(300, 28, 28)[:, :, :6] = False  # as at the border of an image
    keep.reshape(300, 28, 28)[:, :6] = False
    values = Dense.of(keep.astype(np.float32), "BF16")
    sizes = [len(record.encode(kind(keep, values), "F32", "huffman")) for kind in (Positions, Sparse)]
    assert sizes[0] < 0.97 * sizes[1]
