"""An artifact in lm-evaluation-harness, where that is installed, against likelihoods written out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rarefy
from rarefy.errors import UsageError

STORIES = Path(__file__).parents[3] / "shared/data/lm/stories260K"

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the harness's own
    pytest.mark.skipif(not STORIES.exists(), reason="needs ../shared/data/lm/stories260K"),
]

TASK = """
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: "{{{{right}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""

ENDINGS = [
    ("Once upon a time, there was a little", [" girl named Lily.", " under cold machine."], 0),
    ("The dog was very", [" tree and ran tree.", " happy."], 1),
    ('She said, "I love you', [" the the a.", ', Mom!"'], 1),
    ("They played in the", [" park.", " because of she."], 1),  # a wrong key, which a good network misses
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install rarefy[lm-eval]")
    out = tmp_path_factory.mktemp("lm_eval") / "out"
    rarefy.compress(STORIES, out, ["quantize.rtn:bits=6,group=32"])
    return out


def likelihood(module: torch.nn.Module, tokenizer, start: str, ending: str) -> float:
    """log p(ending | start), a token at a time."""
    ids = tokenizer(start + ending)["input_ids"]
    known = len(tokenizer(start)["input_ids"])
    total = 0.0
    with torch.no_grad():
        for i in range(known, len(ids)):
            total += module(torch.tensor([ids[:i]])).logits[0, -1].log_softmax(-1)[ids[i]].item()
    return total


def test_a_task_of_choices(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import lm_eval
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    from rarefy.engines.lm_eval import RarefyLM

    rows = [json.dumps({"start": s, "endings": e, "right": r}) for s, e, r in ENDINGS]
    (tmp_path / "endings.jsonl").write_text("\n".join(rows))
    (tmp_path / "endings.yaml").write_text(TASK.format(file=tmp_path / "endings.jsonl"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=RarefyLM(str(artifact), batch_size=2), tasks=["endings"], task_manager=manager, log_samples=True
    )

    module, tokenizer = rarefy.open(artifact).module(), AutoTokenizer.from_pretrained(artifact)
    expected = [[likelihood(module, tokenizer, s, e) for e in endings] for s, endings, _ in ENDINGS]
    samples = sorted(found["samples"]["endings"], key=lambda sample: sample["doc_id"])
    said = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    assert said == [pytest.approx(pair, abs=1e-3) for pair in expected]
    right = [pair.index(max(pair)) == r for pair, (_, _, r) in zip(expected, ENDINGS, strict=True)]
    assert found["results"]["endings"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_the_harness_knows_it_by_name(artifact: Path) -> None:
    from lm_eval.api.registry import get_model

    from rarefy.engines.lm_eval import RarefyLM

    assert get_model("rarefy") is RarefyLM
    with pytest.raises(UsageError, match="dtype float7"):
        RarefyLM(str(artifact), dtype="float7")
