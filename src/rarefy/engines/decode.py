"""The step of transformers' weight conversion that turns a record into its tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.core_model_loading import ConversionOps, WeightConverter

from rarefy.engines.ahead import decoded, restored
from rarefy.engines.tensors import tensor
from rarefy.errors import FormatError, RarefyError

if TYPE_CHECKING:
    from rarefy.engines.plugin import RarefyQuantizer


class Decode(ConversionOps):
    """Records to dense tensors in `dtype`, each on the device where its record was put.

    whole: the record is the whole parameter, with no conversion after this one.
    """

    def __init__(self, hf_quantizer: RarefyQuantizer, dtype: torch.dtype | None = None, whole: bool = False) -> None:
        self.hf_quantizer, self.dtype, self.whole = hf_quantizer, dtype, whole

    def __deepcopy__(self, memo: dict[int, Any]) -> Decode:
        # The loader copies a converter for each key; all of them report to the one quantizer.
        return Decode(self.hf_quantizer, self.dtype, self.whole)

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        full_layer_name: str = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """{pattern: records} to {pattern: tensors}, or to {full_layer_name: tensor} when `whole`."""
        tensors = {}
        for pattern in list(input_dict):
            found = input_dict.pop(pattern)
            records = found if isinstance(found, list) else [found]
            tensors[pattern] = [self._decode(record, full_layer_name) for record in records]
        if not self.whole:
            return tensors
        return {full_layer_name: next(iter(tensors.values()))[0]}

    def _decode(self, record: torch.Tensor, name: str) -> torch.Tensor:
        try:
            if self.whole:
                found, packer = self.hf_quantizer.ahead.take(self), self.hf_quantizer.packer
            else:
                found, packer = decoded(record, restored(self.dtype), torch.get_num_threads()), None
            if packer is not None and packer.take(name, found.code, str(record.device), found.made):
                # In the place of the parameter until its layer is replaced: its shape, and the memory of one number.
                return torch.zeros((), dtype=self.dtype, device=record.device).expand(found.code.shape)
            made = found.made if packer is None else tensor(found.code, self.dtype or found.dtype)
            values: torch.Tensor = made.to(record.device)
            return values
        except RarefyError as error:
            failure = FormatError(f"{name} cannot be decoded", str(error))
            if not self.whole:
                raise failure from error
            # Raised here it would end as a traceback in transformers' load report and a RuntimeError that names
            # nothing. No parameter has this shape, so the loader asks param_needs_quantization, which raises it.
            self.hf_quantizer.failure = failure
            return torch.empty((0,) * 9, device="meta")

    @property
    def reverse_op(self) -> ConversionOps:
        """Nothing to revert: dense stays dense."""
        return self


def without_decoding(conversions: list[Any] | None) -> list[Any] | None:
    """The model's own conversions as they were, for save_pretrained to revert."""
    if conversions is None:
        return None
    for conversion in conversions:
        if isinstance(conversion, WeightConverter):
            conversion.operations = [step for step in conversion.operations if not isinstance(step, Decode)]
    return [conversion for conversion in conversions if getattr(conversion, "operations", True)]
