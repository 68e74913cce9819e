"""Reading the author's file, on one made here and on his own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import squeezenet

DATA = Path(__file__).parents[2] / "../shared/data/cnn"

PROTOTXT = """name: "Two"
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  convolution_param { num_output: 2 kernel_size: 1 }
}
layer {
  name: "pool"
  type: "Pooling"
  bottom: "conv1"
  top: "pool"
}
layer {
  name: "fire/join"
  type: "Concat"
  bottom: "pool"
  bottom: "conv1"
  top: "fire/join"
}
layer {
  name: "fire/conv"
  type: "Convolution"
  bottom: "fire/join"
  top: "out"
  convolution_param { num_output: 1 kernel_size: 3 }
}
"""


def published(folder: Path) -> list[np.ndarray]:
    """A file of two layers written as its author would; the weights."""
    rng = np.random.default_rng(0)
    book = np.append(np.float32(0), rng.normal(size=255).astype(np.float32))
    parts, counts, weights = [], [], []
    for shape in ((2, 3, 1, 1), (1, 4, 3, 3)):
        weight = np.zeros(shape, np.float32)
        at = (
            (1, 4) if weight.size == 6 else (0, 15, 35)
        )  # the last is further off than a gap says: a zero stands between
        gaps, codes, before = [], [], -1
        for place in at:
            while place - before > 16:
                gaps.append(15)
                codes.append(0)
                before += 16
            gaps.append(place - before - 1)
            codes.append(int(rng.integers(1, 256)))
            weight.reshape(-1)[place] = book[codes[-1]]
            before = place
        pairs = np.array(gaps + [0] * (len(gaps) % 2)).reshape(-1, 2)
        parts += [book, np.arange(shape[0], dtype=np.float32), np.array(codes, np.uint8)]
        parts.append((pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8))
        counts.append(len(codes))
        weights.append(weight)
    (folder / squeezenet.NET).write_bytes(b"".join(p.tobytes() for p in [np.array(counts, np.uint32), *parts]))
    (folder / squeezenet.PROTOTXT).write_text(PROTOTXT)
    return weights


def test_reads_what_the_author_wrote(tmp_path: Path) -> None:
    weights = published(tmp_path)
    network = list(squeezenet.layers(tmp_path))
    assert [layer.name for layer in network] == ["conv1", "fire.conv"]
    for layer, weight in zip(network, weights, strict=True):
        np.testing.assert_array_equal(layer.weight(), weight)
        np.testing.assert_array_equal(layer.bias, np.arange(len(weight)))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    published(tmp_path)
    with (tmp_path / squeezenet.NET).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SystemExit, match="not as its author's"):
        list(squeezenet.layers(tmp_path))


def test_a_number_that_differs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    network = list(squeezenet.layers(tmp_path))
    assert squeezenet.measure(network, tmp_path, None, single=True)["bytes"] < 5000
    monkeypatch.setattr(squeezenet.Codebook, "decode", lambda code: -code.rebuild(code.free()))
    with pytest.raises(SystemExit, match=r"conv1.weight is not as"):
        squeezenet.measure(network, tmp_path, None, single=True)


@pytest.mark.skipif(not (DATA / squeezenet.NET).exists(), reason="the compressed SqueezeNet is not at hand")
def test_a_fifth_fewer_bytes_for_the_same_numbers(tmp_path: Path) -> None:
    network = list(squeezenet.layers(DATA))
    assert sum(layer.codes.size for layer in network) >= sum(np.count_nonzero(w.weight()) for w in network) == 415_921
    assert squeezenet.measure(network, tmp_path, None, single=False)["bytes"] <= 0.8 * 675_763
