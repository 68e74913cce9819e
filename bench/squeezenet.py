"""SqueezeNet as the author of Deep Compression published it, in a Rarefy artifact: the same numbers in fewer bytes.

    python bench/squeezenet.py [--data DIR] [--artifact DIR] [--out bench/results/squeezenet.json]

DIR of --data holds compressed_SqueezeNet.net (675,763 bytes) and SqueezeNet_deploy.prototxt, from
github.com/songhan/SqueezeNet-Deep-Compression. The artifact is read back and every weight and bias compared in every
bit with what the author's file says. Bytes are those of the whole file. --artifact keeps the smallest.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import machine, versions
from rarefy.codes import Codebook, Dense
from rarefy.codes.codebook import FIRST_FASTEST, LAST_FASTEST
from rarefy.entropy.choice import ARCHIVE
from rarefy.files import manifest, record
from rarefy.files.container import Reader, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NET, PROTOTXT = "compressed_SqueezeNet.net", "SqueezeNet_deploy.prototxt"


@dataclass(frozen=True)
class Layer:
    """A convolution as the file holds it.

    shape: (out, in, kernel, kernel). codebook: float32 (256,). bias: float32 (out,). codes: uint8, of each weight that
    is written. gaps: uint8 0..15, the weights passed over before each of them.
    """

    name: str
    shape: tuple[int, int, int, int]
    codebook: NDArray[np.float32]
    bias: NDArray[np.float32]
    codes: NDArray[np.uint8]
    gaps: NDArray[np.uint8]

    def weight(self) -> NDArray[np.float32]:
        """The weights, zero where none is written."""
        weight = np.zeros(self.shape, np.float32)
        weight.reshape(-1)[np.cumsum(self.gaps.astype(np.int64) + 1) - 1] = self.codebook[self.codes]
        return weight


def layers(folder: Path) -> Iterator[Layer]:
    """Numbers of codes; then for each layer its codebook, biases, codes, and gaps, two to a byte, the lower first."""
    data, shapes = np.fromfile(folder / NET, np.uint8), list(convolutions(folder))
    at = 4 * len(shapes)
    for (name, shape), count in zip(shapes, data[:at].view("<u4").tolist(), strict=True):
        sizes = (1024, 4 * shape[0], count, -(-count // 2))
        book, bias, codes, packed = np.split(data[at : at + sum(sizes)], np.cumsum(sizes)[:-1])
        at += sum(sizes)
        gaps = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[:count]
        yield Layer(name, shape, book.view("<f4"), bias.view("<f4"), codes, gaps)
    if at != data.size:
        raise SystemExit(f"{NET} is not as its author's")


def convolutions(folder: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Names and shapes, from the prototxt."""
    channels = {"data": 3}
    for text in re.split(r"\nlayer \{", (folder / PROTOTXT).read_text())[1:]:
        of = {key: re.findall(rf'\b{key}: *"?([\w/.]+)', text) for key in ("name", "type", "bottom", "top")}
        inputs, top = sum(channels[name] for name in of["bottom"]), of["top"][0]
        channels[top] = inputs
        if of["type"][0] == "Convolution":
            out, kernel = (int(re.findall(rf"{key}: *(\d+)", text)[0]) for key in ("num_output", "kernel_size"))
            channels[top] = out
            yield of["name"][0].replace("/", "."), (out, inputs, kernel, kernel)


def records(network: list[Layer], coder: str | None) -> Iterator[tuple[str, bytes]]:
    """Of weights, in the order that takes fewer bytes, and of biases."""
    for layer in network:
        codes = (Codebook.of(layer.weight(), order=order) for order in (LAST_FASTEST, FIRST_FASTEST))
        yield f"{layer.name}.weight", min((record.encode(code, "F32", coder) for code in codes), key=len)
        yield f"{layer.name}.bias", record.encode(Dense.of(layer.bias), "F32", coder)


def measure(network: list[Layer], folder: Path, coder: str | None, single: bool) -> dict[str, Any]:
    """Write, read back, compare."""
    start = time.perf_counter()
    write(folder, list(records(network, coder)), single_bytes=1 << 20 if single else 0)
    middle = time.perf_counter()
    reader = Reader(folder)
    values = {name: reader.code(name)[0].decode() for name in reader.names()}
    end = time.perf_counter()
    for layer in network:
        for key, expected in (("weight", layer.weight()), ("bias", layer.bias)):
            if values.pop(f"{layer.name}.{key}").tobytes() != expected.tobytes():
                raise SystemExit(f"{layer.name}.{key} is not as its author's")
    if values:
        raise SystemExit(f"the artifact has more than the author's file: {sorted(values)}")
    return {
        "bytes": reader.size,
        "write_s": round(middle - start, 2),
        "read_s": round(end - middle, 2),
        "by_stream": by_stream(reader),
    }


def by_stream(reader: Reader) -> dict[str, int]:
    """Bytes of models and tiles by what they hold; the rest is heads, names and the file's own."""
    total = {"index": 0, "centroids": 0, "bias": 0}
    for name in reader.names():
        head = reader.head(name)
        for stream, tiles in zip(head.names, head.streams, strict=True):
            kind = "bias" if name.endswith(".bias") else stream.rstrip("0123456789")
            total[kind] += tiles.coded + len(tiles.model)
    return {**total, "rest": reader.size - sum(total.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cnn"))
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench/results/squeezenet.json"))
    options = parser.parse_args()
    if not (options.data / NET).exists():
        raise SystemExit(f"{options.data} has no {NET}: fetch it and its prototxt, and name their folder with --data")
    network = list(layers(options.data))
    published = (options.data / NET).stat().st_size
    weights = [layer.weight() for layer in network]
    results: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "published_bytes": published,
        "weights": sum(weight.size for weight in weights),
        "nonzero": sum(int(np.count_nonzero(weight)) for weight in weights),
    }
    for layout, single in (("spread", False), ("single", True)):
        for coder in (None, "context", ARCHIVE):
            with tempfile.TemporaryDirectory() as folder:
                row = measure(network, Path(folder), coder, single)
            row["less"] = round(1 - row["bytes"] / published, 4)
            results[f"{layout} {coder or 'default'}"] = row
            print(f"{layout:6} {coder or 'default':8} {row['bytes']:9,} bytes  -{100 * row['less']:.1f} %  {row}")
    if options.artifact:
        options.artifact.mkdir(parents=True)
        measure(network, options.artifact, ARCHIVE, single=True)
        manifest.write(options.artifact, {})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
