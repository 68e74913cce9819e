"""What is known of a family of networks, and the sites that every network of modules has."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import nn

    from rarefy.model import Model

Law = Literal["softmax", "embedding", "gaussian"]
"""The output law under which distortion is measured: see `rarefy.measure.divergence`."""

Kind = Literal["linear", "convolution", "embedding", "other"]
"""How a parameter is used; other: biases, gains, and what no known layer multiplies by."""


class Family(Protocol):
    """A family: recognises a module and names its blocks."""

    ORDER: ClassVar[int]
    """The family that knows more has the smaller one."""

    def matches(self, module: nn.Module) -> bool: ...

    def name(self, module: nn.Module) -> str:
        """What reports call it."""
        ...

    def blocks(self, module: nn.Module) -> list[list[str]]:
        """Paths of the blocks in order of execution, of each stack: within one, each is fed with the output of the one
        before. Raises NotAChain, saying why, where there are none."""
        ...

    def law(self, module: nn.Module) -> Law: ...


@dataclass(frozen=True)
class Place:
    """Where a site's matrix is used: the parameter, the kind of use, and every module that uses it.

    parameter: name in the module, the owner's where it is tied.
    modules: paths of the modules that use it; the first one decides in which segment it is coded.
    turned: the parameter lies as (in, out).
    """

    parameter: str
    kind: Kind
    modules: tuple[str, ...]
    turned: bool = False


@functools.cache
def families() -> list[Family]:
    """Every family of this room, the most particular first: modules that define `FAMILY`."""
    from rarefy import families as room

    found = []
    for info in pkgutil.iter_modules(room.__path__):
        family = getattr(importlib.import_module(f"rarefy.families.{info.name}"), "FAMILY", None)
        if family is not None:
            found.append(family)
    return sorted(found, key=lambda family: family.ORDER)


def family_of(module: nn.Module) -> Family | None:
    """The family that recognises `module`, or None."""
    return next((family for family in families() if family.matches(module)), None)


def places(module: nn.Module, ties: dict[str, str]) -> list[Place]:
    """Every matrix that a linear, convolution or embedding layer uses, tied ones once, in module order."""
    from torch import nn

    found: dict[str, tuple[Kind, bool, list[str]]] = {}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear) or turns(layer):
            kind: Kind = "linear"
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            kind = "convolution"
        elif isinstance(layer, nn.Embedding):
            kind = "embedding"
        else:
            continue
        if layer._parameters.get("weight") is None:  # computed from others, as by weight_norm
            continue
        name = f"{path}.weight" if path else "weight"
        found.setdefault(ties.get(name, name), (kind, turns(layer), []))[2].append(path)
    return [Place(name, kind, tuple(paths), turned) for name, (kind, turned, paths) in found.items()]


def turns(layer: nn.Module) -> bool:
    """Whether a layer multiplies its input by a weight (in, out) from the right: transformers' Conv1D, of GPT-2."""
    kind = type(layer)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def outside(module: nn.Module, ties: dict[str, str]) -> dict[str, str]:
    """Matrices that no known layer owns: parameter -> the type of the module that holds it."""
    known = {place.parameter for place in places(module, ties)}
    unknown = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2 and name not in known:
            holder = module.get_submodule(name.rpartition(".")[0])
            unknown[name] = type(holder).__name__
    return unknown


def is_causal(model: Model) -> bool:
    """Whether the network predicts the next token."""
    config = model.skeleton.config() or {}
    names = config.get("architectures") or [""]
    return str(names[0]).endswith(("ForCausalLM", "LMHeadModel"))


def reads_tokens(model: Model) -> bool:
    """Whether the network's input are token ids."""
    return getattr(model.skeleton.empty, "main_input_name", "") == "input_ids"
