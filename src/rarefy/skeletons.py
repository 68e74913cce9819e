"""What is left of a network without its weights: how to build it, its names, its ties, the files beside it."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import json
import re
import shutil
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.files import config as configs
from rarefy.files.atomic import writing

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    import torch
    from torch import nn

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".pkl", ".ot"}
"""Files that hold weights in some form: never side files of an artifact."""

_ONE_EXPERT = re.compile(r"\.experts\.\d+\.")

_PARAMETERS = 2
"""How often a parameter may be registered while its network is built: replaced, shared, moved."""

OWN_FILES = {"manifest.json", "recipe.toml"}
"""What an artifact adds to the side files."""


class Skeleton(ABC):
    """A network's form without its weights.

    folder: where its side files lie (config, tokenizer, licence), or None.
    """

    folder: Path | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """A new module in evaluation mode, its parameters on the meta device, its buffers real."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the manifest says of it: enough to open the artifact again."""

    def config(self) -> dict[str, Any] | None:
        """The parsed config.json, without quantization_config, or None when there is no such thing."""
        return None

    @functools.cached_property
    def empty(self) -> nn.Module:
        """One built module, shared by everybody who only looks."""
        return self.build()

    @functools.cached_property
    def ties(self) -> dict[str, str]:
        """Module names of parameters that are another parameter: alias -> the name that owns the values."""
        first: dict[int, str] = {}
        ties = {}
        for name, parameter in self.empty.named_parameters(remove_duplicate=False):
            owner = first.setdefault(id(parameter), name)
            if owner != name:
                ties[name] = owner
        return ties

    def side_files(self) -> list[Path]:
        """Files that an artifact carries along, relative to `folder`, sorted; config.json is written anew."""
        if self.folder is None:
            return []
        files = []
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            weights = path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".index.json")
            if path.is_file() and not hidden and not weights and str(relative) not in OWN_FILES | {"config.json"}:
                files.append(relative)
        return files

    def copy_side_files(self, folder: Path) -> None:
        """Copy them to `folder`. Raises UsageError for one that stands there already, ResourceError."""
        for relative in self.side_files():
            assert self.folder is not None
            source, target = self.folder / relative, folder / relative
            if target.exists():
                raise UsageError(f"{source} would be overwritten by the artifact's own {relative}")
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def names(self, keys: Iterable[str]) -> dict[str, str]:
        """File keys -> module names, for the keys that the module has. Raises FormatError when it needs others."""
        wanted = set(self.empty.state_dict(keep_vars=True))
        found = self._found(keys, wanted)
        have = set(found.values())
        have |= {alias for alias, owner in self.ties.items() if owner in have}
        have |= {owner for alias, owner in self.ties.items() if alias in have}
        missing = sorted(wanted - have)
        if missing:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise FormatError(
                f"the weights lack {len(missing)} of the network's tensors ({shown})",
                remedy="check that the weights belong to this config or factory",
            )
        return found

    def counters(self, keys: Iterable[str]) -> dict[str, torch.Tensor]:
        """By module name, the counts of batches that these keys lack: zero, as PyTorch takes them where a file is older
        than they are. No output depends on them."""
        state = {k: v for k, v in self.empty.state_dict().items() if k.endswith("num_batches_tracked")}
        have = set(self._found(keys, state).values()) if state else set()
        return {name: tensor for name, tensor in state.items() if name not in have}

    def _found(self, keys: Iterable[str], wanted: Container[str]) -> dict[str, str]:
        """File keys -> module names, for keys that are called one of those."""
        spelled = {key: next((name for name in self._spellings(key) if name in wanted), None) for key in keys}
        return {key: name for key, name in spelled.items() if name is not None}

    def _spellings(self, key: str) -> Iterator[str]:
        """What the module may call the tensor that a file calls `key`, the likeliest first."""
        yield key
        prefix = getattr(self.empty, "base_model_prefix", "")
        if prefix:
            yield f"{prefix}.{key}"
            yield key.removeprefix(f"{prefix}.")


class TransformersSkeleton(Skeleton):
    """A network that transformers builds from a config.json; never from remote code.

    tensors: of the weight files; a network that registers many more parameters is not built to its end.
    apart: the files hold experts one by one, and so does the network (see `experts`).
    """

    def __init__(
        self, config: dict[str, Any], folder: Path | None, tensors: int | None = None, apart: bool = False
    ) -> None:
        self._config = {k: v for k, v in config.items() if k != "quantization_config"}
        self.folder = folder
        self.tensors = tensors
        self.apart = apart

    @classmethod
    def at(cls, folder: Path, sizes: Mapping[str, int] | None = None) -> TransformersSkeleton:
        """From `folder`/config.json. sizes: elements of each tensor in the weight files, to which it is held.

        Raises FormatError.
        """
        config = configs.read(folder)
        if sizes is None:
            return cls(config, folder)
        configs.check(config, len(sizes), sum(sizes.values()))
        return cls(config, folder, len(sizes), apart=any(map(_ONE_EXPERT.search, sizes)))

    def config(self) -> dict[str, Any]:
        return self._config

    def describe(self) -> dict[str, Any]:
        return {"kind": "transformers", "architecture": self.architecture}

    @property
    def architecture(self) -> str:
        names = self._config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise FormatError("config.json names no architecture", remedy='add "architectures": ["..."] to it')
        return names[0]

    @functools.cached_property
    def _renamings(self) -> list[Any]:
        """How transformers itself brings the names of checkpoints to those of the network as it builds it today."""
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        if not isinstance(self.empty, PreTrainedModel):
            return []
        return [step for step in get_model_conversion_mapping(self.empty) if isinstance(step, WeightRenaming)]

    def _spellings(self, key: str) -> Iterator[str]:
        from transformers.core_model_loading import apply_renamings

        yield from super()._spellings(key)
        yield from super()._spellings(apply_renamings(key, self._renamings))

    def build(self) -> nn.Module:
        import transformers
        from accelerate import init_empty_weights
        from transformers.initialization import no_init_weights

        from rarefy.experts import take_apart

        kind = getattr(transformers, self.architecture, None)
        if kind is None or not hasattr(kind, "from_pretrained"):
            raise RarefyError(
                f"transformers {transformers.__version__} has no {self.architecture}",
                "it needs remote code, which Rarefy never runs, or another version of transformers",
                "build the module yourself and give it as pkg.mod:factory@weights.safetensors",
            )
        try:
            config = kind.config_class.from_dict(copy.deepcopy(self._config))
            config.dtype = None
            with _at_most(self.tensors), no_init_weights(), init_empty_weights(include_buffers=False):
                module = kind(config)
                if self.apart:
                    take_apart(module)
            module.tie_weights()
            _make_unsaved(module)
        except RarefyError:
            raise
        except Exception as error:
            raise FormatError(f"{self.architecture} cannot be built from config.json", str(error)) from error
        built: nn.Module = module.eval()
        return built


def _make_unsaved(module: Any) -> None:
    """Make what transformers does not save, since the network computes it (Marian's sinusoids): buffers, no weights."""
    for name in module._keys_to_ignore_on_save or ():
        path, _, own = name.rpartition(".")
        holder = module.get_submodule(path)
        if own in holder._parameters:
            module._init_weights(holder.to_empty(device="cpu"))
            holder.register_buffer(own, holder._parameters.pop(own).detach(), persistent=False)


@contextlib.contextmanager
def _at_most(tensors: int | None) -> Iterator[None]:
    """Raise FormatError when modules built meanwhile register far more parameters than there are tensors for."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    registered = 0

    def count(*_: Any) -> None:
        nonlocal registered
        registered += 1
        if tensors is not None and registered > _PARAMETERS * (tensors + 32):
            raise FormatError(
                f"config.json describes a network of more parameters than the {tensors} tensors of the weight files",
                remedy="check that the weights belong to this config",
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


class GGUFSkeleton(TransformersSkeleton):
    """A network in a GGUF file, by transformers' reader: config and tokenizer are made from the file's metadata."""

    @classmethod
    def at(cls, path: Path) -> tuple[GGUFSkeleton, dict[str, torch.Tensor]]:  # type: ignore[override]
        """The skeleton and the dequantized weights, float32, by module name. Raises FormatError."""
        import torch
        import transformers

        try:
            network = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            config = json.loads(network.config.to_json_string(use_diff=False))
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except ImportError as error:
            raise RarefyError(f"{path} cannot be read", str(error), "pip install 'rarefy[gguf]'") from None
        except Exception as error:
            raise FormatError(f"{path} cannot be read as GGUF", f"{type(error).__name__}: {error}") from error
        config["architectures"] = [type(network).__name__]
        config["dtype"] = "float32"
        for key in ("quantization_config", "_name_or_path", "transformers_version"):
            config.pop(key, None)
        skeleton = cls(config, None)
        # The folder of tokenizer files lives as long as the skeleton.
        skeleton.folder = Path(tempfile.mkdtemp(prefix="rarefy-gguf-"))
        weakref.finalize(skeleton, shutil.rmtree, skeleton.folder, True)
        tokenizer.save_pretrained(skeleton.folder)
        return skeleton, network.state_dict()


class FactorySkeleton(Skeleton):
    """A module made by a function of the user's, named as pkg.mod:factory."""

    def __init__(self, factory: str) -> None:
        self.factory = factory

    def describe(self) -> dict[str, Any]:
        return {"kind": "factory", "factory": self.factory}

    def make(self) -> nn.Module:
        """The module as the factory makes it, weights and all."""
        module_name, _, function = self.factory.partition(":")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            made = getattr(importlib.import_module(module_name), function)()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.factory} cannot be called", str(error), "name an importable function: pkg.mod:factory"
            ) from error
        except Exception as error:
            raise UsageError(f"{self.factory} failed", f"{type(error).__name__}: {error}") from error
        from torch import nn

        if not isinstance(made, nn.Module):
            raise UsageError(f"{self.factory} returned {type(made).__name__}", remedy="return a torch.nn.Module")
        return made.eval()

    def build(self) -> nn.Module:
        return hollow(self.make())


class ModuleSkeleton(Skeleton):
    """A module that the caller holds in memory."""

    def __init__(self, module: nn.Module) -> None:
        self._empty = hollow(module)

    def describe(self) -> dict[str, Any]:
        return {"kind": "module", "type": type(self._empty).__qualname__}

    def build(self) -> nn.Module:
        return copy.deepcopy(self._empty)


def hollow(module: nn.Module) -> nn.Module:
    """A copy with parameters on the meta device and ties intact; `module` is left as it is."""
    from torch import nn

    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    return copy.deepcopy(module, memo).eval()


def digest_of(skeleton: Skeleton) -> str:
    """SHA-256 over what describes the skeleton, its config and its side files."""
    sha = hashlib.sha256(json.dumps([skeleton.describe(), skeleton.config()], sort_keys=True).encode())
    for relative in skeleton.side_files():
        assert skeleton.folder is not None
        sha.update(str(relative).encode() + b"\0" + hashlib.sha256((skeleton.folder / relative).read_bytes()).digest())
    return sha.hexdigest()
