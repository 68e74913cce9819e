"""Passes between graphs that compute the same, towards the operators whose kernels in ONNX Runtime are the faster."""

from __future__ import annotations

import onnx_ir as ir

from rarefy.export.onnx_rounding import swept

HEADS_FIRST = (0, 2, 1, 3)
"""(batch, length, heads, depth) to (batch, heads, length, depth), and back."""


def tuned(model: ir.Model) -> None:
    """Both passes."""
    join_heads(model)
    part_norms(model)


def join_heads(model: ir.Model) -> None:
    """Attention over (batch, length, heads * depth), where its inputs come from there and its output goes there:
    the kernel finds heads by their strides, and four copies of the activations fall away."""
    for node in list(model.graph):
        # Any other input or output is a cache's.
        if node.op_type != "Attention" or len(node.outputs) > 1 or any(node.inputs[4:]):
            continue
        given, out = [_joined(value) for value in node.inputs[:3]], _rejoined(node.outputs[0])
        if out is None or any(value is None for value in given):
            continue
        for name, value in zip(("q_num_heads", "kv_num_heads"), node.inputs, strict=False):
            assert value is not None
            assert value.shape is not None
            node.attributes[name] = ir.AttrInt64(name, value.shape[1])
        for i, value in enumerate(given):
            node.replace_input_with(i, value)
        node.outputs[0].shape = out.shape
        ir.convenience.replace_all_uses_with(out, node.outputs[0])
    swept(model)


def _joined(value: ir.Value | None) -> ir.Value | None:
    """(batch, length, heads * depth) that a value (batch, heads, length, depth) is made of, or None."""
    turn = None if value is None else _turn(value.producer())
    view = None if turn is None or turn.inputs[0] is None else turn.inputs[0].producer()
    if value is None or view is None or view.op_type != "Reshape" or view.inputs[0] is None:
        return None
    return view.inputs[0] if _same(view.inputs[0].shape, value.shape) else None


def _rejoined(value: ir.Value) -> ir.Value | None:
    """(batch, length, heads * depth) that alone is made of a value (batch, heads, length, depth), or None."""
    turn = _turn(_reader(value))
    view = None if turn is None else _reader(turn.outputs[0])
    if view is None or view.op_type != "Reshape" or view.outputs[0].is_graph_output():
        return None
    return view.outputs[0] if _same(view.outputs[0].shape, value.shape) else None


def _turn(node: ir.Node | None) -> ir.Node | None:
    """The node itself, where it exchanges heads and length."""
    if node is None or node.op_type != "Transpose":
        return None
    return node if tuple(node.attributes.get_ints("perm", ())) == HEADS_FIRST else None


def _same(joined: ir.Shape | None, apart: ir.Shape | None) -> bool:
    """Whether (batch, length, width) and (batch, heads, length, depth) are of the same activations."""
    if joined is None or apart is None or len(joined) != 3 or len(apart) != 4:
        return False
    sizes = (apart[1], apart[3], joined[2])
    return all(isinstance(size, int) for size in sizes) and sizes[0] * sizes[1] == sizes[2] and joined[1] == apart[2]


def _reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, which the graph does not give out."""
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def part_norms(model: ir.Model) -> None:
    """Sum for Add before a LayerNormalization. ONNX Runtime would make SkipLayerNormalization of the two, whose kernel
    goes value by value: on AVX2 it takes several times as long as the two kernels that it stands for."""
    for node in list(model.graph):
        add = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] is not None else None
        if add is not None and add.op_type == "Add" and not add.outputs[0].is_graph_output():
            total = ir.node("Sum", list(add.inputs), name=(add.name or "").replace("/Add", "/Sum"))
            ir.convenience.replace_nodes_and_values(model.graph, add, [add], [total], add.outputs, total.outputs)
