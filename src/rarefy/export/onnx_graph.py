"""ONNX graphs of networks as Rarefy builds them, by torch.export: any batch, any length, keys and values in and out."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from rarefy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir
    from numpy.typing import NDArray

OPSET: Final = 23
"""The first with attention, rotary positions and RMS normalization as operators."""

BATCH, LENGTH, PAST = 2, 5, 3
"""Sizes of the inputs that the network is traced with: all different, none of them 1, which torch would fix."""


_SLICE: Final = re.compile(r"\.?slice\([^)]*\)")
"""What torch puts into a path where a network runs through some first of its layers."""


class Decoder(nn.Module):
    """A causal language model as a function of the keys and values of earlier tokens, (batch, heads, past, depth) each.

    It gives logits, then the keys and values of all tokens.
    """

    main = "logits"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)) or None)
        out = self.network(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = out.past_key_values.layers
        return out.logits, *(values for layer in layers for values in (layer.keys, layer.values))


class Encoder(nn.Module):
    """A network of tokens and a mask as a function of these, that gives one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.main = network, ""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        self.main, found = _main(self.network(input_ids=input_ids, attention_mask=attention_mask, **more))
        return found


class Plain(nn.Module):
    """A network of one array that gives one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.main = network, ""

    def forward(self, x: Tensor) -> Tensor:
        self.main, found = _main(self.network(x))
        return found


def graph_of(network: nn.Module, *, causal: bool, example: NDArray[Any] | None, source: str) -> ir.Model:
    """The graph of a network in evaluation mode.

    example: arrays that it reads, (n, ...); None for a network that reads tokens.
    Raises UsageError when torch cannot follow it.
    """
    config: Any = getattr(network, "config", None)
    try:
        with torch.no_grad(), _quiet():
            if causal:
                return _decoder(network)
            if example is None:
                return _encoder(network, types=getattr(config, "type_vocab_size", 0) > 1)
            return _plain(network, example)
    except Exception as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"torch cannot export {source} to ONNX", why[0][:200], "use --to safetensors") from error


def _decoder(network: nn.Module) -> ir.Model:
    wrapped = Decoder(network)
    ids = torch.full((BATCH, LENGTH), 3)
    mask = torch.ones(BATCH, PAST + LENGTH, dtype=torch.long)
    positions = torch.arange(PAST, PAST + LENGTH).repeat(BATCH, 1)
    grown = wrapped(ids, mask[:, :LENGTH], positions)[1:]
    past = tuple(values[:, :, :PAST].contiguous() for values in grown)
    token, earlier = {0: "batch_size", 1: "sequence_length"}, {0: "batch_size", 2: "past_sequence_length"}
    total = {0: "batch_size", 1: "total_sequence_length"}
    sides = [f"{i}.{side}" for i in range(len(past) // 2) for side in ("key", "value")]
    return _export(
        wrapped,
        {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        | {f"past_key_values.{side}": values for side, values in zip(sides, past, strict=True)},
        (token, total, token, tuple(earlier for _ in past)),
        ["logits", *(f"present.{side}" for side in sides)],
    )


def _encoder(network: nn.Module, *, types: bool) -> ir.Model:
    ids = torch.full((BATCH, LENGTH), 3)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types:
        given["token_type_ids"] = torch.zeros_like(ids)
    wrapped = Encoder(network)
    wrapped(**given)
    shapes = tuple({0: "batch_size", 1: "sequence_length"} for _ in given)
    return _export(wrapped, given, shapes, [wrapped.main])


def _plain(network: nn.Module, example: NDArray[Any]) -> ir.Model:
    x = torch.from_numpy(example[:1]).repeat(BATCH, *(1 for _ in example.shape[1:]))
    wrapped, name = Plain(network), getattr(network, "main_input_name", "input")
    wrapped(x)
    return _export(wrapped, {name: x}, ({0: "batch_size"},), [wrapped.main])


def _export(module: nn.Module, given: dict[str, Tensor], shapes: tuple[Any, ...], outputs: list[str]) -> ir.Model:
    program = torch.onnx.export(
        module.eval(),
        tuple(given.values()),
        dynamo=True,
        input_names=list(given),
        output_names=outputs,
        dynamic_shapes=shapes,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    made: ir.Model = program.model
    _named(made)
    return made


def _named(model: ir.Model) -> None:
    """Call nodes after the layers that they are of; what torch notes of them beside that has this machine's paths."""
    seen: dict[str, int] = {}
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = _SLICE.sub("", scopes[-2]).removeprefix("network").removeprefix(".") if len(scopes) > 1 else ""
        name = f"{layer}/{node.op_type}"
        seen[name] = seen.get(name, -1) + 1
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _main(out: Any) -> tuple[str, Tensor]:
    """The tensor among what a network gives, and its name."""
    if isinstance(out, Tensor):
        return "output", out
    if isinstance(out, Mapping):
        for name in ("logits", "last_hidden_state"):
            if isinstance(out.get(name), Tensor):
                return name, out[name]
    if isinstance(out, tuple) and out and isinstance(out[0], Tensor):
        return "output", out[0]
    raise UsageError("the network's output is not understood", f"it is a {type(out).__name__}, not a tensor")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes of packages that are not there."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
