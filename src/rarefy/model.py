"""A network as Rarefy holds it: its skeleton, and a code for each of its tensors."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from rarefy.codes import Dense
from rarefy.codes.separable import Separable
from rarefy.edits import QuantizedInput, attach
from rarefy.errors import FormatError, UsageError
from rarefy.skeletons import ModuleSkeleton, Skeleton

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rarefy.codes import Code

_COMPARED = 1 << 22
"""Values that are compared at a time."""


@dataclass(frozen=True)
class Step:
    """One thing done to a network: a method, its settings, and what it could not do.

    damage: site -> relative squared error of its output (or of its weights where no data were seen) by this step.
    untouched: parameter -> why it was left as it was.
    """

    method: str
    settings: Mapping[str, Any]
    damage: Mapping[str, float] = field(default_factory=dict)
    untouched: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A frozen network. Codes that a step leaves alone are shared with the model before it.

    skeleton: how to build the module.
    codes: file key -> code, tied parameters once, persistent buffers included.
    dtypes: file key -> element type that the weight had at first, to which it is restored.
    names: file key -> name in the module; keys that the module does not have are carried along and not here.
    source: what the weights were read from, for messages.
    history: what was done, oldest first.
    sections: what an artifact's manifest said beyond that: calibration fingerprints, the original's size.
    edits: file key of a weight -> what is done to the inputs of the layers that multiply by it.
    reference: the network before the first step; None where there was no step, or where it was read from an artifact.
    """

    skeleton: Skeleton
    codes: Mapping[str, Code]
    dtypes: Mapping[str, str]
    names: Mapping[str, str]
    source: str = "a module in memory"
    history: tuple[Step, ...] = ()
    sections: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, QuantizedInput] = field(default_factory=dict)
    reference: Model | None = None

    @classmethod
    def of(
        cls, skeleton: Skeleton, codes: Mapping[str, Code], dtypes: Mapping[str, str], source: str, **more: Any
    ) -> Model:
        """A model of a skeleton and codes. Raises FormatError when tensors are missing or have other shapes."""
        names = skeleton.names(codes)
        wanted = skeleton.empty.state_dict(keep_vars=True)
        for key, name in names.items():
            if shape_of(codes, key) != tuple(wanted[name].shape):
                raise FormatError(
                    f"{key} has shape {list(shape_of(codes, key))}, the network wants {list(wanted[name].shape)}",
                    remedy="check that the weights belong to this config or factory",
                )
        owners: dict[str, str] = {}
        for key, name in sorted(names.items(), key=lambda item: item[1] in skeleton.ties):
            owners.setdefault(skeleton.ties.get(name, name), key)
        aliases = {key for key, name in names.items() if owners[skeleton.ties.get(name, name)] != key}
        for key in sorted(aliases):
            owner = owners[skeleton.ties.get(names[key], names[key])]
            if not same_values(codes[owner], codes[key]):
                raise FormatError(
                    f"{key} and {owner} differ, and the network has one parameter for both",
                    remedy='if they are not tied, say so in its config ("tie_word_embeddings": false)',
                )
        kept = LazyCodes.selected(codes, [key for key in codes if key not in aliases])
        names = {key: name for key, name in names.items() if key not in aliases}
        return cls(skeleton, kept, MappingProxyType(dict(dtypes)), names, source, **more)

    @classmethod
    def from_module(cls, module: nn.Module) -> Model:
        """A model of a module in memory; the module is left as it is, its tensors shared until changed."""
        skeleton = ModuleSkeleton(module)
        codes = dense_codes(module.state_dict())
        return cls.of(skeleton, codes, {key: code.dtype.name for key, code in codes.items()}, "a module in memory")

    @property
    def keys(self) -> dict[str, str]:
        """Module name -> file key, for owners and for their aliases."""
        by_name = {name: key for key, name in self.names.items()}
        by_owner = {self.skeleton.ties.get(name, name): key for name, key in by_name.items()}
        for alias, owner in self.skeleton.ties.items():
            by_name[alias] = by_owner[owner]
            by_name[owner] = by_owner[owner]
        return by_name

    @property
    def weights(self) -> int:
        """Unique parameters, tied ones once, buffers not: the denominator of bits per weight."""
        return sum(parameter.numel() for parameter in self.skeleton.empty.parameters())

    def is_buffer(self, key: str) -> bool:
        """Whether the tensor is no trained parameter (batch-norm statistics, position ids, unused keys)."""
        return self.names.get(key) not in dict(self.skeleton.empty.named_parameters(remove_duplicate=False))

    def bits(self) -> float:
        """Estimated rate in bits, container overhead left out."""
        return sum(code.bits() for code in self.codes.values())

    def with_codes(
        self, new: Mapping[str, Code], step: Step, edits: Mapping[str, QuantizedInput] | None = None
    ) -> Model:
        """The network after a step that changed the codes in `new`, and made `edits`."""
        edits = {**self.edits, **(edits or {})}
        unknown = {*new, *edits} - set(self.codes)
        if unknown:
            raise UsageError(f"the model has no tensor {min(unknown)}")
        codes = ChainMap(new, self.codes) if new else self.codes  # type: ignore[arg-type]
        reference = self.reference if self.history else self
        return replace(self, codes=codes, edits=edits, history=(*self.history, step), reference=reference)

    def original(self) -> Model:
        """The network before the first step. Raises UsageError for an artifact, which does not hold it."""
        if self.history and self.reference is None:
            raise UsageError(
                f"{self.source} does not hold the network that it was made from",
                "a method of this recipe needs it",
                "start from the original, with all steps in one recipe",
            )
        return self.reference or self

    def tensors(
        self, names: list[str], device: str = "cpu", dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Decoded tensors by module name, tied names one tensor; those that the files do not hold are left out.

        Floating ones are `dtype` (default float32), integers as they are.
        """
        return decoded_by_name(self.codes, self.keys, names, device, dtype)

    def built(self) -> nn.Module:
        """A fresh module, its parameters on the meta device, that does what the edits say."""
        return self.edited(self.skeleton.build())

    def edited(self, module: nn.Module) -> nn.Module:
        """`module`, of this network's form, made to do what the edits say."""
        return attach(module, {self.names[key]: edit for key, edit in self.edits.items()})

    def module(self, device: str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
        """The whole network, a fresh module with every weight restored (float32 unless `dtype`)."""
        module = self.built()
        keys = self.keys
        owners = [name for name in module.state_dict(keep_vars=True) if name not in self.skeleton.ties]
        made: dict[str, torch.Tensor] = {}
        for name in owners:
            made[name] = decoded(self.codes[keys[name]], device, dtype)
        for alias, owner in self.skeleton.ties.items():
            made[alias] = made[owner]
        module.load_state_dict(made, assign=True)
        return retie(module, self.skeleton.ties).to(device).eval()

    def packed(self, device: str = "cpu") -> nn.Module:
        """The whole network with coded weights kept at 4 or 8 bits in memory, computing in bfloat16; no training."""
        from rarefy.engines.packed import packed

        return packed(self, device)


class LazyCodes(Mapping[str, "Code"]):
    """Codes that are read when asked for and not kept: a network's codes need not be in memory together."""

    def __init__(self, load: Callable[[str], Code], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._load, self.shapes = load, shapes

    @classmethod
    def selected(cls, codes: Mapping[str, Code], keys: Iterable[str]) -> LazyCodes:
        """Some of the codes of another mapping."""
        return cls(codes.__getitem__, {key: shape_of(codes, key) for key in keys})

    def __getitem__(self, key: str) -> Code:
        if key not in self.shapes:
            raise KeyError(key)
        return self._load(key)

    def __contains__(self, key: object) -> bool:
        return key in self.shapes  # without reading the code

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def shape_of(codes: Mapping[str, Code], key: str) -> tuple[int, ...]:
    """The shape of one of the codes, without reading it where that can be known."""
    if isinstance(codes, LazyCodes):
        return tuple(codes.shapes[key])
    if isinstance(codes, ChainMap):
        return next(shape_of(part, key) for part in codes.maps if key in part)
    return tuple(codes[key].shape)


def same_values(one: Code, other: Code) -> bool:
    """Whether two codes decode to the same numbers, bit for bit where both are dense."""
    if isinstance(one, Dense) and isinstance(other, Dense) and one.dtype == other.dtype:
        bits = f"<u{one.dtype.size}"
        return bool(np.array_equal(one.raw().view(bits), other.raw().view(bits)))
    if isinstance(one, Separable) and isinstance(other, Separable) and one.holds_as(other):
        return True
    a, b = one.decode(), other.decode()
    if a.shape != b.shape:
        return False
    a, b = a.reshape(-1), b.reshape(-1)
    # In parts: what array_equal copies is larger than what it compares.
    parts = (slice(start, start + _COMPARED) for start in range(0, a.size, _COMPARED))
    return all(np.array_equal(a[part], b[part], equal_nan=True) for part in parts)


def retie(module: nn.Module, ties: Mapping[str, str]) -> nn.Module:
    """Make tied names share one parameter again, which assignment of a state dict undoes."""
    for alias, owner in ties.items():
        path, _, leaf = alias.rpartition(".")
        setattr(module.get_submodule(path), leaf, module.get_parameter(owner))
    return module


def decoded(code: Code, device: str, dtype: torch.dtype | None) -> torch.Tensor:
    """One tensor restored: floating values in `dtype` (default float32), integers bit for bit."""
    import torch

    if isinstance(code, Dense) and not code.dtype.floating:
        return torch.from_numpy(code.raw().copy()).to(device)
    return torch.from_numpy(code.decode()).to(device=device, dtype=dtype or torch.float32)


def decoded_by_name(
    codes: Mapping[str, Code], keys: Mapping[str, str], names: Iterable[str], device: str, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Tensors of module names by way of their file keys; names with one key share one tensor."""
    held = [name for name in names if name in keys]
    made = {key: decoded(codes[key], device, dtype) for key in dict.fromkeys(keys[name] for name in held)}
    return {name: made[keys[name]] for name in held}


def dense_codes(tensors: Mapping[str, torch.Tensor]) -> dict[str, Dense]:
    """A dense code for each torch tensor, in its own element type, sharing its memory."""
    import torch

    names = {
        torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    }  # fmt: skip
    codes = {}
    for key, tensor in tensors.items():
        if tensor.dtype not in names:
            raise UsageError(f"{key} has element type {tensor.dtype}", "Rarefy does not store it")
        codes[key] = _dense(tensor.detach().cpu(), names[tensor.dtype])
    return codes


def _dense(tensor: torch.Tensor, name: str) -> Dense:
    import torch

    from rarefy.codes.dtypes import dtype_of

    dtype = dtype_of(name)
    if name == "BF16":
        tensor = tensor.contiguous().view(torch.int16)
    elif name.startswith("F8"):
        tensor = tensor.contiguous().view(torch.uint8)
    raw = tensor.numpy().view(dtype.raw)
    return Dense(lambda: raw, tuple(raw.shape), dtype)
