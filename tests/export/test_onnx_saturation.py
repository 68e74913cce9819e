"""Weights beside which no product saturates: within the bound, nearer than 7 bits, exact in the runtime's kernels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from rarefy.codes import Dense, Grid
from rarefy.export import onnx_saturation
from rarefy.export.nearest import nearest
from rarefy.export.onnx_saturation import MOST, TOP, saturation, unsaturated

SHAPES = [(24, 48), (7, 33), (16, 8, 3, 3), (8, 3, 3, 3), (6, 5, 4), (4, 1, 3, 3), (3, 0), (0, 4)]


def weights(shape: tuple[int, ...], law: str = "laplace") -> np.ndarray:
    return getattr(np.random.default_rng(3), law)(size=shape).astype(np.float32)


def signed(grid: Grid) -> np.ndarray:
    return (grid.q.astype(int) - 128).reshape(grid.shape)


@pytest.mark.parametrize("law", ["laplace", "normal"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_neighbours_saturate_and_the_levels_are_finer(shape: tuple[int, ...], law: str) -> None:
    w = weights(shape, law)
    code = Dense.of(w, "F32")
    found = unsaturated(code)
    assert found.shape == shape and found.decode().shape == shape and saturation(signed(found)) <= MOST
    if w.size:
        seven = nearest(code, 7, w[0].size, symmetric=True, scale="F32").decode().reshape(shape)
        assert np.square(found.decode() - w).sum() < 0.6 * np.square(seven - w).sum()


def test_neighbours_share_what_is_too_much() -> None:
    """Beside the nearest of all levels that do not saturate, tried one by one."""
    x = np.random.default_rng(5).uniform(-TOP, TOP, (40, 2)).astype(np.float32)
    found = onnx_saturation._rounded(x)
    levels = np.arange(-TOP, TOP + 1)
    allowed = np.array([pair for pair in product(levels, levels) if abs(sum(pair)) <= MOST])
    least = np.array([np.square(allowed - each).sum(1).min() for each in x])
    assert np.abs(found.sum(1)).max() <= MOST and np.abs(found).max() <= TOP and (found == np.rint(found)).all()
    np.testing.assert_allclose(np.square(found - x).sum(1), least, atol=1.1)


def test_integers_that_do_not_saturate_are_kept() -> None:
    seven = nearest(Dense.of(weights((16, 8, 3, 3)), "F32"), 7, 72, symmetric=True, scale="F32")
    found = unsaturated(seven)
    np.testing.assert_array_equal(found.decode().reshape(-1), seven.decode().reshape(-1))
    assert found.bits_per_symbol == 8
    again = unsaturated(found)
    np.testing.assert_array_equal(again.q, found.q)
    full = np.full((2, 6), 255, np.uint8)
    loud = Grid(full, Dense.of(np.ones((2, 1), np.float32), "F32"), None, bits_per_symbol=8, group=6, shape=(2, 6))
    assert saturation(signed(loud)) == 254 and saturation(signed(unsaturated(loud))) <= MOST


def test_rows_of_zeros_stay_zero() -> None:
    w = weights((4, 10))
    w[1] = 0
    found = unsaturated(Dense.of(w, "F32")).decode()
    assert (found[1] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize(("inputs", "size"), [(16, 3), (4, 3), (3, 3), (5, 2), (32, 1)])
def test_convolutions_are_exact_in_the_runtime(inputs: int, size: int) -> None:
    """With the activations that saturate first. On processors with VNNI nothing would."""
    w = signed(unsaturated(Dense.of(weights((16, inputs, size, size)), "F32"))).astype(np.int8)
    x = (np.random.default_rng(4).integers(0, 2, (2, inputs, 8, 8)) * 255).astype(np.uint8)
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(w).double()).numpy()
    step = np.float32(np.abs(wanted).max() / 127)
    one, zero, rows = np.float32(1), np.uint8(0), np.ones(16, np.float32)
    given = {"x_scale": one, "x_zero": zero, "w": w, "w_scale": rows, "w_zero": np.zeros(16, np.int8)}
    y = ran("QLinearConv", x, given | {"y_scale": step, "y_zero": np.uint8(128)}, np.uint8)
    assert np.abs(y.astype(int) - 128 - wanted / step).max() < 0.51


@pytest.mark.parametrize("columns", [64, 384, 385, 770])
def test_products_are_exact_in_the_runtime(columns: int) -> None:
    w = signed(unsaturated(Dense.of(weights((48, columns)), "F32"))).astype(np.int8).T
    x = (np.random.default_rng(4).integers(0, 2, (9, columns)) * 255).astype(np.uint8)
    y = ran("MatMulInteger", x, {"w": np.ascontiguousarray(w)}, np.int32)
    np.testing.assert_array_equal(y, x.astype(int) @ w.astype(int))


def ran(operator: str, x: np.ndarray, constants: dict[str, np.ndarray], dtype: type) -> np.ndarray:
    """What one operator makes of `x` and constants, which the runtime may pack beforehand."""
    pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install rarefy[onnx]")
    ir = pytest.importorskip("onnx_ir", reason="no onnxscript: pip install rarefy[onnx]")
    from rarefy.export.onnx_runtime import session

    given = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(x.shape))
    held = [ir.Value(name=name, const_value=ir.tensor(np.asarray(a), name=name)) for name, a in constants.items()]
    for value in held:
        value.type, value.shape = ir.TensorType(value.const_value.dtype), value.const_value.shape
    node = ir.node(operator, [given, *held])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    graph = ir.Graph([given], node.outputs, nodes=[node], initializers=held, opset_imports={"": 23}, name="one")
    found: np.ndarray = session(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()).run(None, {"x": x})[0]
    return found
