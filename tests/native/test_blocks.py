"""What stands between products, against its formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rarefy.native import _kernels

PATHS = _kernels.paths()
NEAR = {torch.float32: 2e-6, torch.bfloat16: 0.01}


def noise(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.double() - expected).norm() <= NEAR[found.dtype] * expected.norm())


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("n", "width"), [(1, 576), (3, 20), (2, 7)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(n: int, width: int, offset: float, dtype: torch.dtype) -> None:
    x, w = noise(n, width, dtype=dtype), noise(width, dtype=dtype)
    x[0] *= 1e-3
    y = torch.full_like(x, torch.nan)
    _kernels.rms_norm(x.data_ptr(), n, width, w.data_ptr(), offset, 1e-5, y.data_ptr(), dtype is torch.bfloat16)
    square = x.double().square().mean(-1, keepdim=True)
    for row, expected in zip(y, x.double() / (square + 1e-5).sqrt() * (w.double() + offset), strict=True):
        assert near(row, expected)


@pytest.mark.parametrize("dtype", NEAR)
def test_rotates_the_heads_that_are_asked_for(dtype: torch.dtype) -> None:
    n, heads, count, size = 2, 5, 3, 8
    x, cos, sin = noise(n, heads, size, dtype=dtype), *noise(2, n, size, dtype=dtype)
    first, second = x.double().chunk(2, -1)
    turned = x.double() * cos.double()[:, None] + torch.cat([-second, first], -1) * sin.double()[:, None]
    expected = torch.cat([turned[:, :count], x.double()[:, count:]], 1)
    _kernels.rotate(x.data_ptr(), n, heads, count, size, cos.data_ptr(), sin.data_ptr(), dtype is torch.bfloat16)
    assert near(x, expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(
    ("n", "heads", "kept", "count", "size"), [(1, 9, 3, 150, 64), (2, 4, 4, 1, 10), (3, 8, 1, 700, 32)]
)
def test_attends(n: int, heads: int, kept: int, count: int, size: int, dtype: torch.dtype, path: str) -> None:
    q, (k, v) = noise(n, heads + 2, size, dtype=dtype), noise(2, n, kept, count, size, dtype=dtype)
    y = torch.full((n, heads, size), torch.nan, dtype=dtype)
    of: Any = q.data_ptr(), n, heads, heads + 2, k.data_ptr(), v.data_ptr(), kept, count, size, 3.0
    _kernels.attend(*of, y.data_ptr(), dtype is torch.bfloat16, path)
    wide_k, wide_v = (each.double().repeat_interleave(heads // kept, 1) for each in (k, v))
    weights = (3.0 * q.double()[:, :heads, None] @ wide_k.mT).softmax(-1)
    assert near(y, (weights @ wide_v)[:, :, 0])


def test_attention_refuses_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="heads do not share"):
        _kernels.attend(0, 1, 3, 3, 0, 0, 2, 5, 8, 1.0, 0, False)
    with pytest.raises(ValueError, match="heads do not share"):
        _kernels.attend(0, 1, 3, 3, 0, 0, 3, 0, 8, 1.0, 0, False)
    with pytest.raises(ValueError, match="have no halves"):
        _kernels.rotate(0, 1, 3, 2, 7, 0, 0, False)


def matrix(rows: int, columns: int, seed: int) -> tuple[Any, torch.Tensor]:
    """At 8 bits, and what it is."""
    rng = np.random.default_rng(seed)
    q = np.zeros((rows, columns + -columns % 64), np.int8)
    q[:, :columns] = rng.integers(-127, 128, (rows, columns))
    steps = rng.uniform(0.5, 1, rows).astype(np.float32) / 400
    without = dict.fromkeys(("table", "scales", "shifts", "first", "far", "index", "columns"))
    found = _kernels.PackedMatrix(8, columns, columns, 0, False, q.view(np.uint8), steps=steps, **without)
    return found, torch.from_numpy(q[:, :columns].astype(np.float64) * steps[:, None])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("n", [1, 5])
def test_gates(n: int, dtype: torch.dtype, path: str) -> None:
    (gate, w_gate), (up, w_up), (down, w_down) = matrix(200, 70, 0), matrix(200, 70, 1), matrix(70, 200, 2)
    x, y = noise(n, 70, dtype=dtype), torch.full((n, 70), torch.nan, dtype=dtype)
    wide = x.double()
    inner, root = wide @ w_gate.T, 2 * (2 / torch.pi) ** 0.5
    for a, b, act in (
        (1.0, 0.0, torch.nn.functional.silu(inner)),
        (root, root * 0.044715, torch.nn.functional.gelu(inner, approximate="tanh")),
    ):
        _kernels.gated(gate, up, down, a, b, x.data_ptr(), n, y.data_ptr(), dtype is torch.bfloat16, path)
        assert near(y, (act * (wide @ w_up.T)) @ w_down.T)


def test_a_gate_may_be_large() -> None:
    one, _ = matrix(64, 64, 3)
    for size in (1e4, -1e4):
        x, y = torch.full((1, 64), size), torch.full((1, 64), torch.nan)
        _kernels.gated(one, one, one, 1.0, 0.0, x.data_ptr(), 1, y.data_ptr(), False)
        assert y.isfinite().all()


def test_gates_refuse_what_does_not_go_together() -> None:
    wide, narrow = matrix(64, 32, 0)[0], matrix(32, 32, 0)[0]
    with pytest.raises(ValueError, match="do not go together"):
        _kernels.gated(wide, narrow, wide, 1.0, 0.0, 0, 1, 0, False)


@pytest.mark.parametrize("path", PATHS)
def test_matrices_beside_each_other_are_each_alone(path: str) -> None:
    matrices = [matrix(rows, 70, rows)[0] for rows in (40, 1, 700)]
    x = noise(3, 70, dtype=torch.float32)
    beside = torch.full((3, 741), torch.nan)
    _kernels.multiply(matrices, x.data_ptr(), 3, beside.data_ptr(), False, path)
    alone = [torch.empty(3, rows) for rows in (40, 1, 700)]
    for one, y in zip(matrices, alone, strict=True):
        _kernels.multiply([one], x.data_ptr(), 3, y.data_ptr(), False, path)
    assert torch.equal(beside, torch.cat(alone, 1))
    with pytest.raises(ValueError, match="differ in their inputs"):
        _kernels.multiply([matrices[0], matrix(4, 3, 0)[0]], x.data_ptr(), 1, beside.data_ptr(), False, path)
