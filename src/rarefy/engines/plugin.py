"""The transformers plug-in: `from_pretrained` restores an artifact to an ordinary dense model.

transformers sees a pre-quantized checkpoint whose tensors need a conversion, as it does for fp8 or mxfp4: its loader
renames, adds and strips prefixes, ties, merges experts, places and shards as always, and each record becomes its
dense tensor on the way, the next ones being decoded meanwhile.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.core_model_loading import WeightConverter
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from rarefy import edits
from rarefy.edits import attach
from rarefy.engines.ahead import Ahead, restored
from rarefy.engines.decode import Decode, without_decoding
from rarefy.engines.packed import Packer, computing, prepared
from rarefy.errors import FormatError, RarefyError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from transformers import PreTrainedModel

_lock = threading.Lock()

VERSION = 1
"""The newest `version` of an artifact that this plug-in opens."""


class RarefyConfig(QuantizationConfigMixin):
    """What an artifact's config.json says under `quantization_config`.

    version: of the artifact.
    dtype: torch's name of the type to restore to when neither the caller nor the model's config says one.
    packed: keep coded weights at 4 or 8 bits in memory. Asked for by the caller, never by an artifact:
        from_pretrained(artifact, quantization_config=rarefy.Packed()).
    settings: whatever else stands there, kept as it is.
    """

    quant_method: str

    def __init__(self, version: int = VERSION, dtype: str = "float32", packed: bool = False, **settings: Any) -> None:
        self.__dict__.update(settings)
        self.quant_method = "rarefy"
        self.version = version
        self.dtype = dtype
        self.packed = packed

    @property
    def dequantize(self) -> bool:
        """Whether transformers forgets after loading that it was quantized: save_pretrained then writes it dense."""
        return not self.packed

    def get_loading_attributes(self) -> dict[str, Any]:
        """What the caller's configuration adds to the artifact's own."""
        return {"packed": self.packed}


def Packed() -> RarefyConfig:  # noqa: N802 - read as a configuration: quantization_config=rarefy.Packed()
    """Asks from_pretrained to keep an artifact's coded weights at 4 or 8 bits in memory."""
    return RarefyConfig(packed=True)


class RarefyQuantizer(HfQuantizer):
    """Decodes each record to the type that from_pretrained asks for, a few at a time."""

    requires_calibration = False
    quantization_config: RarefyConfig
    ahead: Ahead
    """While weights are loaded."""
    here: bool
    """Whether weights are for a processor."""

    def __init__(self, quantization_config: RarefyConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.failure: RarefyError | None = None
        self.packer: Packer | None = None
        self.packed_dtype = torch.bfloat16

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Raises UsageError for what an artifact cannot do, FormatError for one from the future."""
        if not hasattr(HfQuantizer, "get_new_dtype"):
            raise UsageError(
                "this transformers cannot open Rarefy artifacts", "it is too old", "install transformers 5.21 or newer"
            )
        places = device_map.values() if isinstance(device_map, dict) else [device_map or "cpu"]
        self.here = all(str(place) == "cpu" for place in places) or not torch.accelerator.is_available()
        self.packed_dtype = computing("cpu" if self.here else "cuda")
        version = self.quantization_config.version
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise FormatError(f"artifact version {version} is not known", remedy="open it with a newer rarefy")
        why = getattr(self.quantization_config, "unpack_first", None)
        if why is not None:
            raise UsageError("this artifact cannot be opened as it is", str(why), "restore it first: rarefy unpack")
        if not self.pre_quantized:
            raise UsageError(
                "from_pretrained does not compress", "the model is no Rarefy artifact", "use `rarefy compress` first"
            )
        if isinstance(device_map, dict) and "disk" in device_map.values():
            # accelerate would read the parameters from the artifact's own file at run time, where records lie.
            raise UsageError("an artifact cannot be offloaded to disk", remedy="write it dense with `rarefy unpack`")

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """`dtype`, unless transformers guessed it from the file, where everything is uint8."""
        if self.quantization_config.packed:
            return self.packed_dtype
        if dtype.is_floating_point:
            return dtype
        known = getattr(torch, self.quantization_config.dtype, None)
        return known if isinstance(known, torch.dtype) else torch.float32

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        if getattr(model.config, "distributed_config", None) is not None:
            raise UsageError("an artifact cannot be sharded while it loads", remedy="write it dense first")
        if self.quantization_config.packed:
            self.packer = Packer(model, self.packed_dtype)
        self.ahead = Ahead(torch.get_num_threads())
        if checkpoint_files is not None and len(checkpoint_files) == 1:
            self._respread(checkpoint_files)

    def _respread(self, checkpoint_files: list[str]) -> None:
        """Put a spread copy of a single-tensor file (below 64 KB) in its place in the list.

        The loader then sees the network's own keys; it reads the list that this hook was handed only afterwards.
        """
        from safetensors.numpy import save_file

        from rarefy.files.container import Reader

        reader = Reader(checkpoint_files[0])
        if not reader.single:
            return
        folder = tempfile.mkdtemp(prefix="rarefy-")
        self._tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        spread = Path(folder) / "model.safetensors"
        save_file({name: np.frombuffer(reader.record(name), np.uint8) for name in reader.names()}, spread)
        checkpoint_files[0] = str(spread)

    def update_weight_conversions(self, weight_conversions: list[Any], model: PreTrainedModel) -> list[Any]:
        """Decoding as the first step of the model's own conversions, and as the only one of every other key."""
        for conversion in weight_conversions:
            if isinstance(conversion, WeightConverter):
                conversion.operations = [Decode(self), *conversion.operations]
        return [*weight_conversions, WeightConverter(r"^(.+)$", r"\1", [Decode(self, whole=True)])]

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """None: a record is loaded as it is. What was asked for goes to the operation that decodes it."""
        if isinstance(converter, WeightConverter):
            decode = converter.operations[0]
            assert isinstance(decode, Decode)  # put there by update_weight_conversions
            decode.dtype = dtype
        else:  # a key that no converter may touch, since the model has a parameter of that very name
            converter.quantization_operation = decode = Decode(self, dtype, whole=True)
        if decode.whole:
            if self.packer is None:
                self.ahead.add(decode, param, restored(dtype))
            else:
                self.ahead.add(decode, param, prepared if self.here else None)
        return None

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        """False. Raises what decoding failed with, see `Decode`."""
        if self.failure is not None:
            raise self.failure
        return False

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.failure is not None:
            raise self.failure
        conversions: Any = model._weight_conversions
        model._weight_conversions = without_decoding(conversions)
        self.ahead.close()
        del self.ahead
        if self.packer is not None:
            self.packer.install()
        if hasattr(self, "_tidy"):
            self._tidy()
        attach(model, edits.read(getattr(self.quantization_config, "edits", None)), model.base_model_prefix)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """True: what is loaded is dense. Raises UsageError where it is packed."""
        if self.packer is not None:
            raise UsageError("a packed network is not saved", "its weights are in its artifact", "copy that")
        return True

    @property
    def is_trainable(self) -> bool:
        """True: dense weights train, and adapters beside packed ones."""
        return True


def register(registry: ModuleType) -> None:
    """Enter Rarefy into `registry`, which is transformers.quantizers.auto, unless it is there."""
    with _lock:
        obeyed: Any = registry.LOADING_ATTRIBUTES_CONFIG_TYPES
        if RarefyConfig not in obeyed:
            registry.LOADING_ATTRIBUTES_CONFIG_TYPES = (*obeyed, RarefyConfig)  # type: ignore[attr-defined]
            # Said of every caller's configuration beside an artifact's, also where the caller's part is obeyed.
            warnings.filterwarnings("ignore", r"(?s)You passed `quantization_config`.*\['packed'\]")
        if "rarefy" not in registry.AUTO_QUANTIZATION_CONFIG_MAPPING:
            registry.register_quantization_config("rarefy")(RarefyConfig)
        if "rarefy" not in registry.AUTO_QUANTIZER_MAPPING:
            registry.register_quantizer("rarefy")(RarefyQuantizer)


register(auto)
