"""What flows between segments: moved, marked, and watched for what does not belong to one."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


class NotAChain(Exception):
    """What was taken for a chain of blocks is none; says why."""


@contextlib.contextmanager
def whole_only(check: bool) -> Iterator[None]:
    """With `check`, raise NotAChain where a weight is used that the segment was not given.

    Those are on the meta device, and torch multiplies them without a word, leaving what was in memory.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refuse(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(getattr(value, "is_meta", False) for value in args):
                raise NotAChain("a part of it uses weights of another")
            return func(*args, **(kwargs or {}))

    with Refuse() if check else contextlib.nullcontext():  # type: ignore[no-untyped-call]
        yield


def nans_like(value: torch.Tensor) -> torch.Tensor:
    """NaNs in the shape and, where it has them, the type of `value`."""
    import torch

    return torch.full_like(value, math.nan, dtype=value.dtype if value.is_floating_point() else torch.float32)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Those of nested tuples, lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def has_nan(value: Any) -> bool:
    """Whether there is a NaN in nested tuples, lists and dicts of tensors."""
    # The largest of values with a NaN is NaN, and finding it takes no memory.
    return any(t.is_floating_point() and t.numel() > 0 and bool(t.amax().isnan()) for t in tensors_in(value))


def has_gradient(value: Any) -> bool:
    """Whether a gradient would flow through one of nested tensors."""
    return any(tensor.requires_grad for tensor in tensors_in(value))


def to_device(value: Any, device: str) -> Any:
    """Nested tuples, lists and dicts of tensors copied to `device`: a network may change its inputs in place."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    return value


STEPS = 1000
"""Of the diffusion that a network which asks for a time step was trained on."""


def model_inputs(module: nn.Module, batch: Any) -> Any:
    """The (args, kwargs) that a forward wants for a batch: token ids, or a float array.

    An encoder and decoder share a text, the first half read and the second written (prefix language modelling, Raffel
    et al. 2020, section 3.2.1); of another input the decoder writes its first token. The steps of a diffusion are
    spread evenly over the batch.
    """
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel):
        asks = "timestep" in inspect.signature(module.forward).parameters
        return (batch, *((_steps(batch),) if asks else ())), {}
    named = {module.main_input_name: batch}
    if getattr(module.config, "is_encoder_decoder", False):
        named = _both_sides(module, batch)
    if getattr(module.config, "use_cache", None) is not None:
        named["use_cache"] = False
    return (), named


def _both_sides(module: Any, batch: torch.Tensor) -> dict[str, Any]:
    """An encoder's input and the decoder's."""
    import torch

    start = getattr(module.config, "decoder_start_token_id", None) or 0
    if batch.is_floating_point():
        first = torch.full((len(batch), 1), start, device=batch.device)
        return {module.main_input_name: batch, "decoder_input_ids": first}
    half = batch.shape[1] // 2
    written = batch[:, half:].roll(1, 1)
    written[:, 0] = start
    return {module.main_input_name: batch[:, :half], "decoder_input_ids": written}


def _steps(batch: torch.Tensor) -> torch.Tensor:
    """(n,) time steps."""
    import torch

    return torch.arange(len(batch), device=batch.device) * STEPS // len(batch)
