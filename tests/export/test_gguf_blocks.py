"""Block types: ggml's layouts, by the reader of the gguf package; the nearest blocks no worse than its own."""

from __future__ import annotations

import numpy as np
import pytest
from export.coded import grid

from rarefy.codes import Dense
from rarefy.export.gguf_blocks import BLOCKS, blocks_of, exact

gguf = pytest.importorskip("gguf")

W = np.random.default_rng(3).standard_t(4, (8, 96)).astype(np.float32)


def read(rows: np.ndarray, name: str) -> np.ndarray:
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_the_size_that_the_type_has(name: str) -> None:
    rows = blocks_of(Dense.of(W), name)
    size, length = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert rows.dtype == np.uint8 and rows.shape == (8, 96 // size * length)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_nearest_is_no_worse_than_the_package_s_own(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    ours = np.square(read(blocks_of(Dense.of(W), name), name) - W).sum()
    theirs = np.square(read(gguf.quants.quantize(W, kind), name) - W).sum()
    assert ours <= theirs * 1.0001


@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "name"),
    [
        (4, 32, True, "Q4_0"),
        (4, 96, True, "Q4_0"),
        (3, 32, False, "Q4_0"),
        (4, 32, False, "Q5_0"),
        (4, 0, False, "Q5_0"),
        (8, 32, True, "Q8_0"),
        (6, 32, False, "Q8_0"),
    ],
)
def test_grids_arrive_exactly_in_the_smallest_type(bits: int, group: int, symmetric: bool, name: str) -> None:
    code = grid(bits, group, symmetric)(W)
    found = exact(code)
    assert found is not None and found[0] == name
    np.testing.assert_array_equal(read(found[1], name), code.decode())


@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 16, True), (8, 32, False), (4, 48, False)])
def test_other_grids_are_not_said_to_be_exact(bits: int, group: int, symmetric: bool) -> None:
    assert exact(grid(bits, group, symmetric)(W)) is None


def test_scales_beyond_16_bits_are_not_exact() -> None:
    assert exact(grid(4, 32, True, scale="F32")(W)) is None
    assert exact(Dense.of(W)) is None


@pytest.mark.parametrize(("bits", "name"), [(4, "Q4_1"), (5, "Q5_1")])
def test_an_affine_grid_keeps_its_levels_under_a_rounded_least_value(bits: int, name: str) -> None:
    code = grid(bits, 32, False)(W)
    off = np.abs(read(blocks_of(code, name), name) - code.decode())
    assert 0 < off.max() < 2**-11 * 32 * 0.05


def test_zeros_and_single_weights() -> None:
    w = np.zeros((2, 64), np.float32)
    w[0, 5], w[1, 40] = 3.0, -2.0
    for name in BLOCKS:
        np.testing.assert_allclose(read(blocks_of(Dense.of(w), name), name), w, atol=0.11)
