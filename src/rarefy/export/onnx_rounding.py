"""Passes over a graph whose weights are integers: normalizations folded away, activations rounded in fixed ranges, and
that undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

AT_ONCE: Final = 64
"""Examples that go through the graph together while ranges are taken."""

BINS: Final = 4096
"""Of the values of a tensor, from the least to the greatest."""

SHARES: Final = tuple(0.98**k for k in range(120))
"""Parts of a range that may be all that 8 bits span, down to a tenth."""

LEAST: Final = np.float32(1e-8)
"""The smallest step of an activation: of one that is always zero, too."""


def fold_norms(model: ir.Model) -> None:
    """A batch normalization becomes part of the convolution before it (Jacob et al. 2018, section 3.2): its gain goes
    into the scales of the rows, and the integers stay, but for the sign where the gain is negative."""
    for node in list(model.graph):
        conv = node.inputs[0].producer() if node.op_type == "BatchNormalization" else None
        weight = None if conv is None or conv.op_type != "Conv" else restored(conv)
        if conv is None or weight is None or len(conv.outputs[0].uses()) > 1:
            continue
        levels, scales = (_array(value) for value in weight.inputs[:2])
        gain, shift, mean, variance = (_array(value) for value in node.inputs[1:5])
        factor = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        negative = factor.reshape(-1, *[1] * (levels.ndim - 1)) < 0
        if (factor == 0).any() or (negative & (levels == -128)).any():
            continue
        bias = _array(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros_like(mean)
        folded = _dequantized(
            model, conv, np.where(negative, -levels, levels), scales * np.abs(factor), f"{conv.name}/folded"
        )
        conv.replace_input_with(1, folded)
        added = _constant(model, f"{conv.name}/shift", ((bias - mean) * factor + shift).astype(np.float32))
        conv.resize_inputs(3)
        conv.replace_input_with(2, added)
        ir.convenience.replace_all_uses_with(node.outputs[0], conv.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    swept(model)


def fix_ranges(model: ir.Model, x: NDArray[Any]) -> None:
    """Round what goes into matrices and convolutions with integer weights, what comes out of convolutions, and sums
    of these, to 8 bits without sign, in the range that loses least of what each is on `x`."""
    values = _rounded_values(model)
    ranges = _ranges(model, values, x)
    for value in values:
        low, high = ranges[value.name]
        step = max(np.float32((high - low) / 255), LEAST)
        _round(model, value, step, np.uint8(np.clip(np.rint(-low / step), 0, 255)))
    for node in list(model.graph):
        if node.op_type == "Conv" and len(node.inputs) > 2 and restored(node) is not None:
            read = node.inputs[0].producer()
            if read is not None and read.op_type == "DequantizeLinear":
                _round_bias(model, node, _array(read.inputs[1]))


def restored(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that gives a node its weights, or None."""
    weight = node.inputs[1].producer() if len(node.inputs) > 1 and node.inputs[1] is not None else None
    fits = weight is not None and weight.op_type == "DequantizeLinear" and weight.inputs[0].is_initializer()
    return weight if fits else None


def _rounded_values(model: ir.Model) -> list[ir.Value]:
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        if node.op_type in ("Conv", "MatMul", "Gemm") and restored(node) is not None:
            found[node.inputs[0]] = None
            if node.op_type == "Conv":
                found[_rectified(node.outputs[0])] = None
        elif node.op_type == "Add" and any(value in found for value in node.inputs):
            if any(value is None or value.is_initializer() for value in node.inputs):
                continue
            found |= dict.fromkeys([*node.inputs, _rectified(node.outputs[0])])
    return [value for value in found if not value.is_graph_output()]


def _rectified(value: ir.Value) -> ir.Value:
    """A value, or what a rectifier makes of it where nothing else reads it: the least integer is the rectifier then."""
    uses = value.uses()
    node = next(iter(uses)).node if len(uses) == 1 else None
    return node.outputs[0] if node is not None and node.op_type == "Relu" else value


def _ranges(model: ir.Model, values: list[ir.Value], x: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Name -> the range, zero inside it, that loses least squared error on `x`."""
    from rarefy.export.onnx_runtime import session

    proto = ir.to_proto(model)
    inner = [value for value in values if value.producer() is not None]
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(ir.to_proto(value) for value in inner if value.name not in known)
    run, given = session(proto.SerializeToString()), model.graph.inputs[0]
    names = [value.name for value in inner]

    def seen() -> Iterator[tuple[str, NDArray[Any]]]:
        for start in range(0, len(x), AT_ONCE):
            part = np.ascontiguousarray(x[start : start + AT_ONCE])
            yield from zip([given.name, *names], [part, *run.run(names, {given.name: part})], strict=True)

    whole = dict.fromkeys([given.name, *names], (0.0, 0.0))
    for name, array in seen():
        low, high = whole[name]
        whole[name] = (min(low, float(array.min())), max(high, float(array.max())))
    counts = {name: np.zeros(BINS, np.int64) for name in whole}
    for name, array in seen():
        counts[name] += np.histogram(array, BINS, whole[name])[0]
    return {name: clipped(counts[name], *whole[name]) for name in whole}


def clipped(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The part of a range that loses least squared error at 8 bits (Banner et al., "Post training 4-bit quantization",
    2019, without a law of the values): rounding makes a step's square over 12, clipping the square of what lies beyond.

    counts: of values in equal bins from `low`, at most zero, to `high`, at least zero.
    """
    middles = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)

    def lost(share: float) -> float:
        beyond = np.maximum(middles - share * high, 0) + np.maximum(share * low - middles, 0)
        return float(counts @ np.square(beyond) + counts.sum() * (share * (high - low) / 255) ** 2 / 12)

    share = min(SHARES, key=lost)
    return share * low, share * high


def _round(model: ir.Model, value: ir.Value, step: np.floating, zero: np.uint8) -> None:
    name = f"{value.name}/rounded"
    scale, point = _constant(model, f"{name}/scale", np.float32(step)), _constant(model, f"{name}/zero", zero)
    down = ir.node("QuantizeLinear", [value, scale, point], name=f"{name}/QuantizeLinear")
    up = ir.node("DequantizeLinear", [down.outputs[0], scale, point], name=f"{name}/DequantizeLinear")
    down.outputs[0].name, up.outputs[0].name = f"{name}/integers", name
    up.outputs[0].shape, up.outputs[0].type = value.shape, value.type
    for use in list(value.uses()):
        if use.node is not down:
            use.node.replace_input_with(use.idx, up.outputs[0])
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, [down, up])
    else:
        model.graph.insert_before(next(iter(model.graph)), [down, up])


def _round_bias(model: ir.Model, conv: ir.Node, step: Floats) -> None:
    """A bias as 32-bit integers on the grid of the sums that it is added to; kernels for integers take no other."""
    weight = restored(conv)
    assert weight is not None
    scale = step * _array(weight.inputs[1])
    levels = np.rint(_array(conv.inputs[2]) / scale)
    if np.abs(levels).max(initial=0) < 2**31 - 1:
        conv.replace_input_with(2, _dequantized(model, conv, levels.astype(np.int32), scale, f"{conv.name}/bias"))
        swept(model)


def unrounded(model: ir.Model) -> None:
    """The same graph with activations as they are: what its weights compute, and what a proof is about."""
    for node in list(model.graph):
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        elif node.op_type == "QuantizeLinear":
            for use in node.outputs[0].uses():
                ir.convenience.replace_all_uses_with(use.node.outputs[0], node.inputs[0], replace_graph_outputs=True)
        elif node.op_type == "MatMulInteger":
            _unround_product(model, node)
    swept(model)


def _unround_product(model: ir.Model, node: ir.Node) -> None:
    """Floats times integers made floats; the scale of the activations, by which the product is multiplied, is one."""
    dynamic = node.inputs[0].producer()
    assert dynamic is not None
    floats = ir.node("Cast", [node.inputs[1]], {"to": ir.DataType.FLOAT}, name=f"{node.name}/floats")
    product = ir.node("MatMul", [dynamic.inputs[0], floats.outputs[0]], name=f"{node.name}/product")
    model.graph.insert_before(node, [floats, product])
    for use in list(node.outputs[0].uses()):  # a cast of the sums
        ir.convenience.replace_all_uses_with(use.node.outputs[0], product.outputs[0])
    if dynamic.outputs[1].uses():  # products of one input share it
        one = _constant(model, f"{dynamic.name}/one", np.float32(1))
        ir.convenience.replace_all_uses_with(dynamic.outputs[1], one)


def _dequantized(model: ir.Model, before: ir.Node, levels: Any, scales: Any, name: str) -> ir.Value:
    given = [_constant(model, f"{name}/levels", levels), _constant(model, f"{name}/scales", scales)]
    node = ir.node("DequantizeLinear", given, {"axis": 0}, name=f"{name}/DequantizeLinear")
    node.outputs[0].name = name
    model.graph.insert_before(before, node)
    return node.outputs[0]


def _constant(model: ir.Model, name: str, array: Any) -> ir.Value:
    made = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
    made.shape, made.type = made.const_value.shape, ir.TensorType(made.const_value.dtype)
    model.graph.initializers[name] = made
    return made


def _array(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None
    const = ir.convenience.get_const_tensor(value)
    assert const is not None
    array: NDArray[Any] = const.numpy()
    return array


def swept(model: ir.Model) -> None:
    """Without what nothing reads."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
