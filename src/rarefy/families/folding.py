"""Folding: a batch normalization becomes part of the convolution or linear layer before it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def fold(module: nn.Module) -> nn.Module:
    """A copy, in evaluation mode, of the same function: (W x + b - mean) / s * g + h, s = sqrt(variance + eps), has the
    weight W g / s and the bias (b - mean) g / s + h (Jacob et al. 2018, section 3.2). Where the normalization was
    stands an identity.

    Layers whose output, or normalizations whose input, goes elsewhere too stay as they are.
    Raises UsageError when torch.fx cannot follow the forward pass.
    """
    from torch import fx, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    folded = copy.deepcopy(module).eval()
    try:
        nodes = [node for node in fx.symbolic_trace(folded).graph.nodes if node.op == "call_module"]
    except Exception as error:
        raise UsageError("this network cannot be followed to fold its normalizations", str(error)) from None
    calls = [str(node.target) for node in nodes]
    for node in nodes:
        before: Any = node.args[0]
        if before not in nodes or len(before.users) > 1 or calls.count(before.target) + calls.count(node.target) > 2:
            continue
        layer, norm = folded.get_submodule(before.target), folded.get_submodule(node.target)
        if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            fused = fuse_conv_bn_eval(layer, norm)
        else:
            continue
        folded.set_submodule(before.target, fused)
        folded.set_submodule(node.target, nn.Identity())
    return folded
