"""Calibration data that do not fit a network are refused in a line; those that do are cut and named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from runs import make_llama, run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import rarefy
from rarefy.errors import RarefyError
from rarefy.plan.data import calibration, evaluation

WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a tokenizer of sixty words."""
    folder = make_llama(tmp_path_factory.mktemp("reader") / "llama")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "<unknown>"])}, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unknown>").save_pretrained(folder)
    return folder


def text(path: Path, words: int) -> Path:
    path.write_text(" ".join(WORDS[i % 60] for i in range(words)))
    return path


def test_text_becomes_blocks(reader: Path, tmp_path: Path) -> None:
    model = rarefy.open(reader)
    made = calibration(model, [text(tmp_path / "a.txt", 100)], length=16)
    assert made.inputs.shape == (6, 16)
    assert made.name == "a.txt"
    # Never longer than the network reads.
    assert calibration(model, [tmp_path / "a.txt"]).inputs.shape == (1, 64)


def test_ids_are_cut_to_blocks(reader: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 4), np.int64))
    assert calibration(rarefy.open(reader), [tmp_path / "x.npz"], blocks=5).inputs.shape == (5, 4)


def test_labels_come_along(reader: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 4), np.int64), y=np.arange(9))
    assert calibration(rarefy.open(reader), [tmp_path / "x.npz"], blocks=5).labels.tolist() == [0, 1, 2, 3, 4]
    assert calibration(rarefy.open(reader), [text(tmp_path / "a.txt", 100)], length=16).labels is None


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n ", "is empty"),
        ("tiny.txt", b"w1 w2 w3", "too little text"),
        ("binary.txt", b"\x00\x01\xff", "is not text"),
        ("cut.txt.gz", gzip.compress(b"w1 " * 500, mtime=0)[:-9], "cannot decompress"),
        ("none.txt", None, "cannot read"),
        ("cut.npz", b"PK\x03\x04", "cannot read the arrays"),
        ("float.npz", np.zeros((4, 8), np.float32), "does not hold token ids"),
        ("flat.npz", np.zeros((2, 3, 4), np.int64), "does not hold token ids"),
        ("long.npz", np.zeros((4, 65), np.int64), "longer than"),
        ("unknown.npz", np.full((4, 8), 64), "token ids that"),
        ("negative.npz", np.full((4, 8), -1), "token ids that"),
        ("nothing.npz", np.zeros((0, 8), np.int64), "no examples"),
    ],
)
def test_bad_data(file: str, content: bytes | np.ndarray | None, said: str, reader: Path, tmp_path: Path) -> None:
    path = tmp_path / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, x=content)
    with pytest.raises(RarefyError, match=said) as error:
        run(reader, tmp_path / "out", path, ["quantize.gptq:group=16"])
    assert "\n" not in str(error.value)
    assert file in str(error.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.work").exists()


@pytest.mark.parametrize("file", ["float.npz", "long.npz", "unknown.npz"])
def test_bad_evaluation_data(file: str, reader: Path, tmp_path: Path) -> None:
    bad = {
        "float.npz": np.zeros((4, 8), np.float32),
        "long.npz": np.zeros((4, 65), int),
        "unknown.npz": np.full((4, 8), 64),
    }
    np.savez(tmp_path / file, x=bad[file])
    with pytest.raises(RarefyError, match=file):
        evaluation(rarefy.open(reader), [tmp_path / file])


def test_mixed_kinds(reader: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8), np.int64))
    with pytest.raises(RarefyError, match="more than one file"):
        calibration(rarefy.open(reader), [tmp_path / "x.npz", text(tmp_path / "a.txt", 100)])


def test_text_without_a_tokenizer(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RarefyError, match="has no tokenizer"):
        run(llama, tmp_path / "out", text(tmp_path / "a.txt", 100))


def test_text_for_a_network_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mute_network.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(8, 4)\n")
    monkeypatch.chdir(tmp_path)
    for data in (text(tmp_path / "a.txt", 100), None):
        with pytest.raises(RarefyError, match="does not read text|no default data"):
            run("mute_network:make", tmp_path / "out", data, ["quantize.gptq:group=4"])


def test_a_tokenizer_of_another_network(reader: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", vocab_size=32)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (other / file).write_bytes((reader / file).read_bytes())
    with pytest.raises(RarefyError, match="tokenizer that belongs"):
        run(other, tmp_path / "out", text(tmp_path / "a.txt", 100))
