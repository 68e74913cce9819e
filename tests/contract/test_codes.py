"""What every code must do, whichever are there."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

import rarefy.codes
from rarefy.codes import Code, Codebook, Dense, Grid, Sparse, kinds
from rarefy.codes.base import matrix, names
from rarefy.codes.difference import Difference
from rarefy.codes.factored import Factored
from rarefy.codes.positions import Positions
from rarefy.codes.scaled import Scaled
from rarefy.codes.separable import Separable, exponents, powers
from rarefy.codes.summed import Sum
from rarefy.codes.transposed import Transposed
from rarefy.files import record

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (48, 100)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def keep_largest(density: float) -> np.ndarray:
    return np.abs(VALUES) >= np.quantile(np.abs(VALUES), 1 - density)


def n_of_m(n: int, m: int) -> np.ndarray:
    order = np.argsort(-np.abs(VALUES.reshape(-1, m)), axis=1)
    keep = np.zeros(VALUES.size, bool).reshape(-1, m)
    np.put_along_axis(keep, order[:, :n], True, axis=1)
    return keep.reshape(SHAPE)


def grid(bits: int, group: int, affine: bool, whole: bool = False, dtype: str = "BF16") -> Grid:
    """Round to nearest."""
    rows, columns = matrix(SHAPE)
    groups = -(-columns // group)
    blocks = [VALUES] if whole else np.split(VALUES, range(group, columns, group), axis=1)
    axis = None if whole else 1
    top = (1 << bits) - 1
    low = np.stack([np.minimum(b.min(axis), 0) for b in blocks], -1).reshape(1 if whole else rows, groups)
    high = np.stack([np.maximum(b.max(axis), 0) for b in blocks], -1).reshape(low.shape)
    if not affine:
        high = np.maximum(high, -low)
        low = -high
    scale = Dense.of((high - low) / top, dtype)
    step = np.repeat(scale.decode(), group, axis=1)[:, :columns] if groups > 1 else scale.decode()
    zero = np.clip(np.rint(-low / scale.decode()), 0, top) if affine else np.full(low.shape, 1 << (bits - 1))
    offset = np.repeat(zero, group, axis=1)[:, :columns] if groups > 1 else zero
    q = np.clip(np.rint(VALUES / step) + offset, 0, top).astype(np.uint8)
    return Grid(q, scale, zero.astype(np.uint8) if affine else None, bits_per_symbol=bits, group=group, shape=SHAPE)


def codebook(size: int, dtype: str = "F32", order: int = 0) -> Codebook:
    """The nearest of evenly spaced centroids, one of them zero where their number is odd."""
    centroids = np.linspace(-3, 3, size, dtype=np.float32)
    index = np.rint((np.clip(VALUES, -3, 3) + 3) / 6 * (size - 1)).astype(np.uint8)
    return Codebook(Dense.of(centroids, dtype), index, order=order)


EXAMPLES: dict[str, Callable[[], Code]] = {
    "dense F32": lambda: Dense.of(VALUES),
    "dense BF16": lambda: Dense.of(VALUES, "BF16"),
    "dense F16": lambda: Dense.of(VALUES, "F16"),
    "dense I8": lambda: Dense.of(VALUES * 10, "I8"),
    "grid tensor": lambda: grid(8, 100, affine=False, whole=True),
    "grid channel": lambda: grid(4, 100, affine=True),
    "grid group": lambda: grid(3, 25, affine=False, dtype="F16"),
    "grid short group": lambda: grid(4, 32, affine=True),
    "grid one bit": lambda: grid(1, 50, affine=False),
    "codebook": lambda: codebook(33),
    "codebook other order": lambda: codebook(255, "F16", order=1),
    "codebook without zero": lambda: codebook(16, "BF16"),
    "sparse codebook": lambda: Sparse(n_of_m(2, 4), codebook(16, order=1)),
    "positions": lambda: Positions(keep_largest(0.2), codebook(16, order=1)),
    "positions in sparse": lambda: Sparse(n_of_m(2, 4), Positions(keep_largest(0.3), grid(4, 32, affine=True))),
    "sparse dense": lambda: Sparse(keep_largest(0.2), Dense.of(VALUES, "BF16")),
    "sparse grid": lambda: Sparse(n_of_m(2, 4), grid(4, 32, affine=True)),
    "sparse sparse": lambda: Sparse(n_of_m(2, 4), Sparse(keep_largest(0.3), Dense.of(VALUES))),
}


def separable(step: float) -> Separable:
    """Round to nearest under steps that fall from row to row and rise from column to column."""
    rows = exponents(np.linspace(2, 0.5, SHAPE[0]))
    columns = exponents(step * np.linspace(1, 3, SHAPE[1]))
    q = np.rint(VALUES / (powers(rows)[:, None] * powers(columns))).astype(np.int32)
    return Separable(q, rows, columns, np.float32([0.875, 1.9375, 3]), shape=SHAPE)


def eight_bits(values: np.ndarray, group: int) -> Grid:
    """Round to nearest, for positive values."""
    rows, columns = matrix(values.shape)
    blocks = np.split(values.reshape(rows, columns), range(group, columns, group), axis=1)
    scale = Dense.of(np.stack([np.abs(b).max(1) for b in blocks], -1) / 255)
    q = np.rint(values.reshape(rows, columns) / np.repeat(scale.decode(), group, axis=1)[:, :columns]).astype(np.uint8)
    zero = np.zeros(scale.shape, np.uint8)
    return Grid(q, scale, zero, bits_per_symbol=8, group=group, shape=values.shape)


def blocks(scale: Callable[[np.ndarray], Code], size: int) -> Scaled:
    """Each block of a row by its largest weight; the last is short. Sixteen centroids, zero among them."""
    starts = range(0, SHAPE[1], size)
    largest = np.stack([np.abs(VALUES[:, i : i + size]).max(1) for i in starts], -1)
    stored = scale(largest.reshape(-1))
    steps = VALUES / np.repeat(stored.decode().reshape(largest.shape), size, axis=1)[:, : SHAPE[1]]
    centroids = (np.arange(16) - np.float32(7)) / np.float32(8)
    index = np.clip(np.rint(steps * 8) + 7, 0, 15).astype(np.uint8)
    return Scaled(stored, Codebook(Dense.of(centroids), index), group=size)


def other_way(group: int) -> Grid:
    """Eight bits, for the transpose."""
    w = VALUES.T
    scale = Dense.of(np.stack([np.abs(b).max(1) for b in np.split(w, w.shape[1] // group, axis=1)], -1) / 127)
    q = np.rint(w / np.repeat(scale.decode(), group, axis=1) + 128).astype(np.uint8)
    return Grid(q, scale, None, bits_per_symbol=8, group=group, shape=w.shape)


def low_rank(rank: int) -> Factored:
    """The best of this rank, one factor on a grid."""
    u, s, v = np.linalg.svd(VALUES, full_matrices=False)
    b = (s[:rank, None] * v[:rank]).astype(np.float32)
    q = np.rint(u[:, :rank] * 100 + 128).astype(np.uint8)
    scale = Dense.of(np.full((1, 1), 0.01, np.float32))
    a = Grid(q, scale, None, bits_per_symbol=8, group=rank, shape=q.shape)
    return Factored(a, Dense.of(b, "BF16"), shape=SHAPE)


EXAMPLES |= {
    "transposed grid": lambda: Transposed(other_way(8)),
    "transposed sparse": lambda: Transposed(Sparse(n_of_m(2, 4).T, other_way(4))),
    "scaled blocks": lambda: blocks(lambda s: Dense.of(s, "BF16"), 32),
    "scaled twice": lambda: blocks(lambda s: eight_bits(s, 16), 20),
    "scaled columns": lambda: Scaled(Dense.of(np.linspace(1, 3, SHAPE[1]), "BF16"), grid(4, 32, affine=True), group=1),
    "scaled dense": lambda: Scaled(Dense.of(np.linspace(1, 3, SHAPE[0])), Dense.of(VALUES, "BF16"), group=SHAPE[1]),
    "factored": lambda: low_rank(9),
    "sum": lambda: Sum(grid(3, 50, affine=True), low_rank(3)),
    "sum of pruned": lambda: Sum(Sparse(n_of_m(2, 4), Dense.of(VALUES, "BF16")), low_rank(2)),
}
EXAMPLES |= {"separable": lambda: separable(0.3), "separable far": lambda: separable(0.004)}
every_code = pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES.keys())
every_mask = pytest.mark.parametrize(
    "keep", [keep_largest(0.5), keep_largest(0.1), n_of_m(2, 4), np.zeros(SHAPE, bool), np.ones(SHAPE, bool)],
    ids=["half", "tenth", "2:4", "nothing", "all"],
)  # fmt: skip


def test_every_kind_has_an_example() -> None:
    # A difference has no values without its base: tests/codes/test_difference.py.
    assert {type(make()) for make in EXAMPLES.values()} == set(kinds().values()) - {Difference}
    for module in pkgutil.iter_modules(rarefy.codes.__path__):
        for value in vars(importlib.import_module(f"rarefy.codes.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Code) and value is not Code:
                assert kinds()[value.KIND] is value


@every_code
def test_decode_is_rebuild_of_free(make: Callable[[], Code]) -> None:
    code = make()
    values = code.decode()
    assert values.dtype == np.float32
    assert values.shape == code.shape == SHAPE
    np.testing.assert_array_equal(values, code.rebuild(code.free()))


@every_code
def test_torch_rebuilds_the_same_and_gradients_reach_free(make: Callable[[], Code]) -> None:
    torch = pytest.importorskip("torch")
    code = make()
    free = {name: torch.from_numpy(np.array(value)).requires_grad_() for name, value in code.free().items()}
    values = code.rebuild(free)
    np.testing.assert_array_equal(values.detach().numpy(), code.decode())
    values.square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in free.values())


@every_code
def test_with_free_of_free_changes_nothing(make: Callable[[], Code]) -> None:
    code = make()
    again = code.with_free(code.free())
    assert record.encode(again, "F32") == record.encode(code, "F32")
    np.testing.assert_array_equal(again.decode(), code.decode())


@every_code
def test_with_free_keeps_what_is_not_free(make: Callable[[], Code]) -> None:
    code = make()
    free = code.free()
    # A value is a product of what is free, in each part of a sum.
    parts = ("base.", "added.") if isinstance(code, Sum) else ("",)
    last = [max(name for name in free if name.startswith(part)) for part in parts]
    moved = code.with_free(free | {name: free[name] * np.float32(2) for name in last})
    np.testing.assert_array_equal(moved.decode(), 2 * code.decode())
    assert moved.node() == code.node()


@every_code
def test_immutable(make: Callable[[], Code]) -> None:
    code = make()
    before = record.encode(code, "F32")
    code.masked(keep_largest(0.3))
    code.with_free({name: value * np.float32(0) for name, value in code.free().items()})
    for value in code.free().values():
        value += 1
    assert record.encode(code, "F32") == before


@every_code
@every_mask
def test_masked(make: Callable[[], Code], keep: np.ndarray) -> None:
    code = make()
    masked = code.masked(keep)
    np.testing.assert_array_equal(masked.decode(), np.where(keep, code.decode(), np.float32(0)))
    support = masked.support()
    assert support is None or not (masked.decode() != 0)[~support].any()


@every_code
@every_mask
def test_masked_costs_no_more(make: Callable[[], Code], keep: np.ndarray) -> None:
    """Prune what is coded: estimated bits rise by at most 1 % (the tables of tiny streams aside).

    A product of factors has no weights to leave out, so that there the support is paid for.
    """
    code = make()
    support = next(code.masked(keep).streams()).bits() if isinstance(code, Factored | Sum) else 0
    assert code.masked(keep).bits() <= 1.01 * code.bits() + 8 * 16 + support


@every_code
def test_estimate_is_close_to_the_record(make: Callable[[], Code]) -> None:
    code = make()
    size = 8 * len(record.encode(code, "F32"))
    assert abs(size - code.bits()) <= 0.01 * size + 8 * 60


@every_code
@every_mask
def test_record_round_trip(make: Callable[[], Code], keep: np.ndarray) -> None:
    for code in (make(), make().masked(keep), make().masked(keep).masked(keep_largest(0.4))):
        data = record.encode(code, "BF16")
        back, dtype = record.decode(data)
        assert dtype == "BF16"
        assert type(back) is type(code)
        np.testing.assert_array_equal(back.decode(), code.decode())
        assert record.encode(back, "BF16") == data


@every_code
def test_names_match_streams(make: Callable[[], Code]) -> None:
    code = make()
    assert [name.split(".")[-1] for name in names(code.node())] == [stream.name for stream in code.streams()]
    assert all(stream.symbols.dtype == np.uint8 for stream in code.streams())
