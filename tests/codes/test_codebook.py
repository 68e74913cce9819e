"""Codebooks: bit for bit, against a literal reading of the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rarefy.codes import Codebook, Dense, Sparse
from rarefy.codes.codebook import FIRST_FASTEST, LAST_FASTEST, position, unposition
from rarefy.errors import FormatError
from rarefy.files import record

RNG = np.random.default_rng(0)
BELL = np.unique(np.append(RNG.normal(size=30), 0)).astype(np.float32)
ORDERS = (LAST_FASTEST, FIRST_FASTEST)


def few(shape: tuple[int, ...]) -> np.ndarray:
    """Weights of few values, most of them zero."""
    return np.where(RNG.random(shape) < 0.7, np.float32(0), RNG.choice(BELL, shape))


def streams(code: Codebook, keep: np.ndarray | None = None) -> dict[str, list[int]]:
    return {stream.name: stream.symbols.reshape(-1).tolist() for stream in code.streams(keep)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=256), st.sampled_from(ORDERS))
@example([1 << 31, 0], ORDERS[0])
def test_any_floats_come_back_bit_for_bit(bits: list[int], order: int) -> None:
    """NaN payloads, negative zero, infinities."""
    raw = np.array(bits, np.uint32)
    code = Codebook.of(raw.view(np.float32), order=order)
    back, _ = record.decode(record.encode(code, "F32"))
    np.testing.assert_array_equal(back.decode().view(np.uint32), raw)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2))
def test_positions_are_in_the_order_of_the_floats(values: list[float]) -> None:
    floats = np.array(values, np.float32)
    places = position(floats.view(np.uint32))
    np.testing.assert_array_equal(unposition(places), floats.view(np.uint32))
    np.testing.assert_array_equal(floats[np.argsort(places)], np.sort(floats))


def test_streams_are_what_the_format_says() -> None:
    code = Codebook.of(np.array([[0, 2, -1], [0, 0, 2]], np.float32))
    # -1, 0, 2 stand at ~bf800000, 80000000, c0000000; the symbol of -1 is -1 mod 4.
    assert streams(code) == {
        "centroids0": [0x40, 0x3F, 0x40],
        "centroids1": [0x7F, 0x80, 0],
        "centroids2": [0xFF, 0, 0],
        "centroids3": [0xFF, 1, 0],
        "index": [0, 1, 3, 0, 0, 1],
    }
    assert streams(Codebook(code.centroids, code.index, order=FIRST_FASTEST))["index"] == [0, 0, 1, 0, 3, 1]
    assert code.settings() == (0, 3, 0)


@pytest.mark.parametrize("shape", [(), (5,), (6, 4), (6, 1, 1, 1), (6, 4, 1, 1), (6, 4, 3, 3), (0, 3)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("coder", [None, "context"])
def test_every_shape_in_every_order(shape: tuple[int, ...], order: int, coder: str | None) -> None:
    index = RNG.integers(0, BELL.size, shape, dtype=np.uint8)
    code = Codebook(Dense.of(BELL), np.asarray(index), order=order)
    for each in (code, Sparse(np.asarray(RNG.random(shape) < 0.5), code)):
        back, _ = record.decode(record.encode(each, "F32", coder))
        assert back.node() == each.node()
        np.testing.assert_array_equal(back.decode(), each.decode())


@pytest.mark.parametrize("order", ORDERS)
def test_under_a_support_only_what_it_keeps_is_written(order: int) -> None:
    """Also where no centroid is zero or positive."""
    code = Codebook.of(-1 - np.arange(12, dtype=np.float32).reshape(3, 4) % 5, order=order)
    keep = RNG.random((3, 4)) < 0.5
    weights = code.decode()
    assert len(streams(code, keep)["index"]) == keep.sum()
    back, _ = record.decode(record.encode(Sparse(keep, code), "F32"))
    np.testing.assert_array_equal(back.decode(), np.where(keep, weights, 0))


def test_pruning_needs_no_mask_where_zero_is_a_centroid() -> None:
    code = Codebook.of(few((20, 30)))
    keep = RNG.random((20, 30)) < 0.5
    assert type(code.masked(keep)) is Codebook
    assert not code.masked(keep).support()[~keep].any()
    assert type(Codebook.of(np.ones((2, 2), np.float32)).masked(np.eye(2) > 0)) is Sparse


def test_training_may_change_the_order_of_centroids_but_not_zero() -> None:
    code = Codebook.of(few((20, 30)))
    moved = RNG.normal(size=code.free()["centroids"].size).astype(np.float32)
    again = code.with_free({"centroids": moved})
    np.testing.assert_array_equal(again.decode(), code.rebuild({"centroids": moved}))
    np.testing.assert_array_equal(again.decode() != 0, code.decode() != 0)
    assert (np.diff(again.values) >= 0).all()


def test_training_rounds_to_the_type_of_the_table() -> None:
    code = Codebook(Dense.of(BELL, "F16"), RNG.integers(0, BELL.size, (4, 5), dtype=np.uint8))
    again = code.with_free({"centroids": code.free()["centroids"] * np.float32(1.001)})
    assert set(again.values) <= set((BELL.astype(np.float16) * np.float32(1.001)).astype(np.float16).astype(np.float32))


def test_neighbours_help_where_kernels_agree() -> None:
    """With the first index fastest, a kernel's places are a column, whose mean the context coder knows."""
    signs = np.where(RNG.random((64, 64, 1, 1)) < 0.5, -1, 1)
    index = np.clip(np.rint(signs * 9 + RNG.normal(size=(64, 64, 3, 3)) * 4), -32, 31) + 32
    centroids = Dense.of(np.arange(-32, 32).astype(np.float32))
    sizes = [
        len(record.encode(Codebook(centroids, index.astype(np.uint8), order=order), "F32", "context"))
        for order in ORDERS
    ]
    assert sizes[1] < 0.97 * sizes[0]


def test_too_many_values() -> None:
    with pytest.raises(ValueError, match="257 values"):
        Codebook.of(np.arange(257, dtype=np.float32))


class Damaged(Codebook):
    """Writes what a test says."""

    said: tuple[int, ...] | None = None

    def settings(self) -> tuple[int, ...]:
        return super().settings() if self.said is None else self.said


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((0, 3), "three settings"),
        ((0, 0, 0), "settings are off"),
        ((0, 257, 0), "settings are off"),
        ((0, 3, 2), "settings are off"),
        ((4, 3, 0), "no known float type"),
        ((31, 3, 0), "no known float type"),
        ((1, 3, 0), "streams"),
        ((0, 4, 0), "symbols where its code has 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(said: tuple[int, ...], why: str) -> None:
    code = Damaged(Dense.of(np.array([-1, 0, 2], np.float32)), np.zeros((3, 5), np.uint8))
    code.said = said
    with pytest.raises(FormatError, match=why):
        record.decode(record.encode(code, "F32"))


def test_an_index_past_the_centroids_is_refused() -> None:
    code = Codebook(Dense.of(np.array([-1, 0, 2], np.float32)), np.array([0, 3], np.uint8))
    with pytest.raises(FormatError, match="past its centroids"):
        record.decode(record.encode(code, "F32"))


def test_centroids_past_their_type_are_refused() -> None:
    """Gaps that add up to more than 2^32 would put them out of order."""
    code = Codebook(Dense.of(np.array([2, -1], np.float32)), np.array([0, 1], np.uint8))
    with pytest.raises(FormatError, match="leave their type"):
        record.decode(record.encode(code, "F32"))
