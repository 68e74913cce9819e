"""NF4 against the construction of its table in the paper, and against slow literal versions of both quantizations."""

import numpy as np
import pytest
from scipy.stats import norm

from rarefy.codes import Codebook, Dense, Grid
from rarefy.codes.scaled import Scaled
from rarefy.evidence import Site
from rarefy.methods.quantize.nf4 import NF4, TABLE
from rarefy.methods.quantize.rtn import RTN


def weights(rows: int = 40, columns: int = 320) -> np.ndarray:
    """Rows of different sizes."""
    random = np.random.default_rng(0)
    return (random.normal(size=(rows, columns)) * random.gamma(4, 0.25, (rows, 1))).astype(np.float32)


def site(w: np.ndarray) -> Site:
    return Site("w", "linear", "s", Dense.of(w))


def test_the_table_is_the_papers() -> None:
    """Appendix E: quantiles at equal distances, eight on one side, seven on the other, and zero; the largest is 1."""
    offset = 0.9677083
    above = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([above, [0], below]))
    np.testing.assert_allclose(TABLE, values / values.max(), atol=2e-7)


@pytest.mark.parametrize(("columns", "group"), [(320, 64), (100, 64), (48, 64), (7, 1)])
def test_indices_are_the_literal_ones(columns: int, group: int) -> None:
    w = weights(columns=columns)
    code = NF4(group=group, double=False).encode(site(w))
    assert isinstance(code, Scaled)
    assert isinstance(code.values, Codebook)
    for r in range(len(w)):
        for start in range(0, columns, group):
            block = w[r, start : start + group]
            largest = np.abs(block).max()
            index = [int(np.argmin(np.abs(TABLE - x / largest))) for x in block]
            assert code.values.index[r, start : start + group].tolist() == index
            np.testing.assert_array_equal(code.decode()[r, start : start + group], TABLE[index] * largest)


def dynamic_map() -> np.ndarray:
    """The signed 8-bit map of the authors' package (Dettmers et al. 2022, "8-bit optimizers", section 2)."""
    values = [0.0, 1.0]
    for i in range(7):
        ends = np.linspace(0.1, 1, 2**i + 1)
        middles = 10.0 ** (i - 6) * (ends[:-1] + ends[1:]) / 2
        values += [*middles, *-middles]
    return np.sort(values)


def twice(largest: np.ndarray) -> np.ndarray:
    """Scales after the package's double quantization: less their mean, blocks of 256, the nearest of its map."""
    mean, made = largest.mean(), []
    for start in range(0, largest.size, 256):
        block = largest[start : start + 256] - mean
        top = np.abs(block).max()
        near = dynamic_map()[np.abs(block[:, None] / top - dynamic_map()).argmin(1)]
        made.append(near * top + mean)
    return np.concatenate(made)


def test_double_quantization_is_as_good_as_the_packages() -> None:
    w = weights()
    once, code = NF4(double=False).encode(site(w)), NF4().encode(site(w))
    largest = once.scale.decode()
    assert isinstance(code.scale, Grid)
    ours, theirs = code.scale.decode(), twice(largest)
    step = np.repeat(code.scale.scale.decode().reshape(-1), 256)[: largest.size]
    assert (np.abs(ours - largest) <= step / 2 * (1 + 1e-5)).all()
    assert np.square(ours - largest).mean() <= np.square(theirs - largest).mean()
    losses = [np.square(c.decode() - w).mean() for c in (once, code)]
    assert losses[1] <= 1.003 * losses[0]
    assert code.scale.bits() <= 0.32 * once.scale.bits()


def test_blocks_of_zeros_and_small_blocks_among_large_ones() -> None:
    w = weights(4, 256)
    w[1], w[2, :64] = w[1] * 1e-4, 0
    made, exact = NF4().encode(site(w)).decode(), NF4(double=False).encode(site(w)).decode()
    assert not made[1].any()  # below half a step of the scales around them
    assert np.abs(exact - w)[1].max() <= 0.2 * np.abs(w[1]).max()
    assert not made[2, :64].any()
    assert not exact[2, :64].any()


def test_pruned_weights_stay_zero_without_a_support() -> None:
    w = weights()
    keep = np.abs(w) > 0.5
    code = NF4().encode(site(np.where(keep, w, 0).astype(np.float32)))
    assert isinstance(code, Scaled)
    assert not code.decode()[~keep].any()
    assert isinstance(code.masked(keep), Scaled)


def test_it_beats_a_uniform_grid_on_bells_bit_for_bit_in_memory() -> None:
    w = np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)
    losses = [np.square(m.encode(site(w)).decode() - w).mean() for m in (NF4(), RTN(bits=4, group=64, symmetric=True))]
    assert losses[0] < 0.85 * losses[1]


@pytest.mark.parametrize("shape", [(5,), (3, 0), (0, 4), (6, 4, 3, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    made = NF4(group=16).encode(site(w)).decode()
    assert made.shape == shape
    assert np.abs(made - w).max(initial=0) < 0.5
