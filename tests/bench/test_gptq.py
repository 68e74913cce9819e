"""The comparison's own arithmetic: text that overlaps is refused, identical networks diverge by nothing."""

from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

import gptq


def test_overlap_is_refused() -> None:
    random = np.random.default_rng(0)
    calibration, evaluation = random.integers(0, 1000, (2, 3, 64))
    gptq.refuse_overlap(calibration, evaluation)
    evaluation[1, 20:44] = calibration[2, 5:29]
    with pytest.raises(ValueError, match="share 1 runs of 24 tokens"):
        gptq.refuse_overlap(calibration, evaluation)


def test_divergence_is_of_the_original_from_the_copy(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    llama.save_pretrained(tmp_path / "original")
    llama.lm_head.weight.data *= 0.5
    llama.save_pretrained(tmp_path / "copy")
    ids = np.random.default_rng(0).integers(0, 64, (3, 8))
    kl = gptq.divergences(tmp_path / "original", [tmp_path / "original", tmp_path / "copy"], ids)
    assert kl.shape == (2, 3)
    np.testing.assert_allclose(kl[0], 0, atol=1e-6)
    assert (kl[1] > 1e-3).all()
