"""Standard tasks by lm-evaluation-harness, on whatever Rarefy opens: `pip install rarefy[lm-eval]`.

The harness knows a network under the name it was registered with, so it is started from here:

    python -m rarefy.engines.lm_eval run --model rarefy --model_args pretrained=OUT --tasks piqa,arc_easy

or from Python with ``lm_eval.simple_evaluate(model=RarefyLM("OUT"), tasks=["piqa"])``.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from rarefy.errors import UsageError
from rarefy.opening import open_model

_log = logging.getLogger("lm_eval")  # the harness's own, which it shows


@register_model("rarefy")
class RarefyLM(HFLM):
    """A language model for the harness.

    Args:
        pretrained: an artifact, a Hugging Face directory or a .gguf.
        tokenizer: a directory or a transformers tokenizer; left out, the one beside the weights.
        device: where it computes. The harness says cuda when nobody else does: where there is none, the processor.
        dtype: torch's name of the type in which it computes.
        settings: as for the harness's own ``hf``, e.g. ``batch_size`` and ``max_length``.

    Raises:
        UsageError: ``pretrained`` is no network, or no language model of transformers.
    """

    def __init__(
        self,
        pretrained: str,
        tokenizer: Any = None,
        device: str = "cuda",
        dtype: str = "float32",
        **settings: Any,
    ) -> None:
        model = open_model(pretrained)
        precision = getattr(torch, dtype, None)
        if not isinstance(precision, torch.dtype):
            raise UsageError(f"dtype {dtype} is not known", remedy="use float32, bfloat16 or float16")
        if device.startswith("cuda") and not torch.cuda.is_available():
            _log.warning("no CUDA device here: computing on the processor")
            device = "cpu"
        module = model.module(device, precision)
        if not isinstance(module, transformers.PreTrainedModel) or not module.can_generate():
            raise UsageError(f"{pretrained} is no language model", f"it is a {type(module).__name__}")
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer or model.skeleton.folder)
        super().__init__(module, tokenizer=tokenizer, **settings)


if __name__ == "__main__":
    # Run as a script this file is `__main__`; the harness must meet the class under its own name, and once.
    cli_evaluate()
