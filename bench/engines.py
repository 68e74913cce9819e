"""What was written, running: every engine beside the dense network, and beside files that the engine made itself.

    python bench/engines.py --python LLAMA_ENV/bin/python [--only PART]

    language    SmolLM2-135M off its grid: dense in float32 and bfloat16, packed, GGUF, ONNX of 4 bits
    gguf        its GGUF exports beside llama.cpp's own of the same type, which its library makes of our float32
    encoder     all-MiniLM-L6-v2: int8 ONNX beside torch in float32, sentences a second and Spearman on STS-B's test
    images      ResNet-20 and -56: int8 ONNX beside torch in float32, images a second and accuracy on CIFAR-10's test
    loading     the artifact and dense safetensors by from_pretrained, files dropped from the page cache before each

Networks run in turn, so that other work on the machine hits all alike; figures are medians with 95 % intervals, ratios
are paired. A part that the report has is measured again only when --only names it. What an engine lacks or refuses is
under `missing`, and bars that need it are not reached.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Processes started here find the factories of networks.py.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent.resolve()), os.getenv("PYTHONPATH")))
)

import numpy as np
from transformers import AutoTokenizer

import demo
import networks
from machine import machine, versions
from networks import CACHE, DATA, npz
from opening import PACKED, fresh
from rarefy.cli.session import session
from rarefy.engines.contenders import contender, interpreter
from rarefy.engines.workers import Asked
from rarefy.errors import RarefyError
from rarefy.evidence.pairs import pairs_of
from rarefy.evidence.sources import read_arrays, read_text
from rarefy.measure.compare import compare
from rarefy.measure.speed import median, race
from rarefy.opening import open_model

HERE = Path(__file__).resolve().parent

TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7}
"""Of GGUF, which llama.cpp writes itself too; its own numbers for them."""

QUANTIZE = """
import sys, llama_cpp
source, target, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = int(kind)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))
"""
"""What llama-quantize does."""

GROUPS = "quantize.gptq:bits=4,group=32,symmetric=true,scale=F16"

SATURATES = "VNNI" not in str(machine()["instructions"])
INT8 = f"onnx:activations=int8,reduce_range={str(SATURATES).lower()}"

FLOATS = "exclude=[conv1.weight,layer1.*,linear.weight]"
"""Of the ResNets: the layers that integers make hardly faster, chosen on images of the training set."""

Part = dict[str, Any]


@dataclass
class Run:
    """Where things lie, and what was left out. missing: by name, why."""

    work: Path
    cache: Path = CACHE
    pythons: tuple[str, ...] = ()
    repeat: int = 20
    threads: int | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def rarefy(self, name: str, verb: str, model: Path | str, *words: str) -> Path | None:
        """The directory that a verb makes of a network, once; None where it fails."""
        target = self.work / name
        return self.made(target, [sys.executable, "-m", "rarefy.cli", verb, str(model), str(target), *words])

    def export(self, name: str, model: Path | str | None, to: str, *words: str) -> Path | None:
        """An export, proved wherever there is its engine."""
        pythons = [word for python in self.pythons[:1] for word in ("--python", python)]
        return None if model is None else self.rarefy(name, "export", model, "--to", to, *pythons, *words)

    def quantized(self, kind: str, plain: Path | None) -> Path | None:
        """llama.cpp's own file of a type."""
        target = self.work / f"llama.cpp-{kind}.gguf"
        try:
            python = interpreter("llama.cpp", self.pythons)
        except RarefyError as error:
            self.missing[target.name] = str(error)
            return None
        if plain is None:
            return None
        return self.made(target, [python, "-c", QUANTIZE, f"{plain}/model.gguf", str(target), str(TYPES[kind])])

    def race(self, called: Mapping[str, str | Path | None], **asked: Any) -> Part:
        """Speeds by name, the yardstick first. called: what `rarefy bench` calls each; None was not made."""
        there = {}
        for name, words in called.items():
            try:
                if words is not None:
                    each = contender(str(words))
                    interpreter(each.engine, self.pythons)
                    there[name] = each
            except RarefyError as error:
                self.missing[name] = str(error)
        with session(self.threads) as threads:
            found = race(list(there.values()), Asked(repeat=self.repeat, threads=threads, **asked), self.pythons)
        speeds = {name: speed.as_json() | {"name": name} for name, speed in zip(there, found.speeds, strict=True)}
        return {"threads": threads, "repeat": self.repeat, "bandwidth": found.bandwidth.as_json(), "networks": speeds}

    def made(self, target: Path, command: list[str]) -> Path | None:
        """What a command makes, unless it is there; None where it fails, which is noted."""
        if target.exists():
            return target
        self.work.mkdir(parents=True, exist_ok=True)
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if ran.returncode == 0:
            return target
        self.missing[target.name] = (ran.stderr.strip().splitlines() or [f"it ended with status {ran.returncode}"])[-1][
            :300
        ]
        return None


def language(run: Run) -> Part:
    """Each engine on one network."""
    model = networks.smollm2(run.cache)
    artifact = run.rarefy("artifact", "compress", model, *demo.BUDGET, *demo.SETTINGS)
    grouped = run.rarefy("grouped", "compress", model, "-m", GROUPS)
    called = {
        "dense float32": model,
        "dense bfloat16": f"{model}@transformers:bfloat16",
        "packed": artifact and f"{artifact}@packed",
        "packed groups": grouped and f"{grouped}@packed",
        "gguf q4_0": run.export("gguf-q4_0", grouped, "gguf:type=q4_0"),
        "onnx 4 bits": run.export("onnx-4", grouped, "onnx"),
    }
    found = run.race(called, prompt=128, generate=64)
    held = open_model(artifact).packed().packing.bytes if artifact else 0
    resident = found["networks"]["packed"]["resident_bytes"] if "packed" in found["networks"] else 0
    return {
        **found,
        "packed bytes": held,
        "reached": {
            "packed: generation 3x dense float32": _over(found, "packed", "generation", 3),
            f"packed: memory within 15 % of its {held / 1e6:.1f} MB": 0 < resident <= 1.15 * held,
        },
    }


def gguf(run: Run) -> Part:
    """Our file beside llama.cpp's of the same type, embeddings in its own way."""
    model = networks.smollm2(run.cache)
    plain = run.export("gguf-f32", model, "gguf:type=f32")
    found = {}
    for kind in TYPES:
        ours = run.export(f"gguf-plain-{kind}", model, f"gguf:type={kind},embedding=q8_0")
        theirs = run.quantized(kind, plain)
        if ours and theirs:
            raced = run.race({"llama.cpp's own": theirs, "ours": ours}, prompt=128, generate=64)
            sizes = {"llama.cpp's own": theirs.stat().st_size, "ours": (ours / "model.gguf").stat().st_size}
            found[kind] = {**raced, "bytes": sizes}
    every = [_over(raced, "ours", "generation", 0.95) for raced in found.values()]
    return {
        "types": found,
        "reached": {"gguf: generation 0.95x llama.cpp's own": len(every) == len(TYPES) and all(every)},
    }


def encoder(run: Run) -> Part:
    """Sentences a second at the mean length of STS-B's, and what int8 costs in rank correlation."""
    model = networks.minilm(run.cache)
    onnx = run.export("minilm-int8", model, INT8)
    if onnx is None or not _has_onnx(run, "encoder"):
        return {"reached": {"encoder": False}}
    called = {"dense float32": model, "onnx int8": onnx}
    found = {f"batch {batch}": run.race(called, prompt=16, batch=batch) for batch in (1, 32)}
    pairs = pairs_of(read_text([DATA / "sts" / "sts-test.tsv.xz"]), AutoTokenizer.from_pretrained(model))
    (pair,) = compare({"onnx int8": _session(onnx)}, pairs, original=open_model(model).module()).pairs
    lost = pair.differences["spearman"]
    return {
        **found,
        "spearman less dense's": lost.as_json(),
        "reached": {
            "encoder: 2.5x sentences a second": all(
                _over(raced, "onnx int8", "speed", 2.5) for raced in found.values()
            ),
            "encoder: Spearman within 0.5": abs(lost.value) <= 0.005,
        },
    }


def images(run: Run) -> Part:
    """Images a second, and what int8 costs in accuracy."""
    if not _has_onnx(run, "images"):
        return {"reached": {"images": False}}
    data = npz(run.cache, "cifar10-test", networks.cifar10_test)
    ranges = npz(run.cache, "cifar10-some", lambda: networks.cifar10(range(1)))
    found: Part = {"reached": {}}
    for name in ("resnet20", "resnet56"):
        model = f"networks:{name}@{networks.checkpoint(name)}"
        onnx = run.export(f"{name}-int8", model, f"{INT8},{FLOATS},calibration={ranges}", "--data", str(data))
        if onnx is None:
            found["reached"][name] = False
            continue
        raced = run.race({"dense float32": model, "onnx int8": onnx}, batch=32, data=str(data))
        (pair,) = compare({"onnx int8": _session(onnx)}, read_arrays(data), original=networks.trained(name)).pairs
        lost = pair.differences["accuracy"]
        found[name] = {**raced, "accuracy less dense's": lost.as_json()}
        found["reached"] |= {
            f"{name}: 2x images a second": _over(raced, "onnx int8", "speed", 2),
            f"{name}: accuracy within 0.5 points": lost.low >= -0.005,
        }
    return found


def loading(run: Run) -> Part:
    """Seconds of from_pretrained with cold files, in turn: to float32, and packed.

    Files that are cold here may be warm in the host, so what disk makes both alike is said too: that of which the
    smaller file saves as many seconds as the artifact takes longer, reading what was read here at the rate of here.
    """
    model = networks.smollm2(run.cache, "bf16")
    artifact = run.rarefy("artifact", "compress", networks.smollm2(run.cache), *demo.BUDGET, *demo.SETTINGS)
    if artifact is None:
        return {"reached": {"loading": False}}
    ways = {"dense": ("dense from_pretrained", model), "artifact": ("from_pretrained", artifact)}
    ways |= {"artifact, packed": (PACKED, artifact)}
    cores = len(os.sched_getaffinity(0))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rates = []
    for _ in range(run.repeat):
        for name, (way, path) in ways.items():
            forget(path)
            seconds[name].append(fresh(way, path, cores)["seconds"])
        forget(model)
        began = time.perf_counter()
        rates.append(_read(model) / (time.perf_counter() - began))
    found = {name: median(each) for name, each in seconds.items()}
    ratios = {name: median(np.array(seconds[name]) / np.array(seconds["dense"])) for name in ways if name != "dense"}
    slower, saved = found["artifact"].value - found["dense"].value, _size(model) - _size(artifact)
    rate = median(rates)
    return {
        "repeat": run.repeat,
        "seconds": {name: each.as_json() for name, each in found.items()},
        "over dense": {name: each.as_json() for name, each in ratios.items()},
        "bytes a second": rate.as_json(),
        "alike at": 1 / (1 / rate.value + slower / saved) if slower > 0 else None,
        "reached": {"loading: no slower than dense": ratios["artifact"].value <= 1},
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _read(folder: Path) -> int:
    """Bytes of a folder's files, all of them read."""
    done = 0
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while part := file.read(1 << 20):
                done += len(part)
    return done


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache; the host of a virtual machine may have a cache of its own."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on the disk yet stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _over(raced: Part, name: str, figure: str, bar: float) -> bool:
    """Whether a network is there, and its figure so many times the yardstick's."""
    speed = raced["networks"].get(name)
    return speed is not None and speed["ratios"][figure]["value"] >= bar


def _has_onnx(run: Run, part: str) -> bool:
    """Whether outputs can be compared in this process."""
    if importlib.util.find_spec("onnxruntime"):
        return True
    run.missing[part] = "onnxruntime is not installed beside Rarefy"
    return False


def _session(folder: Path) -> Any:
    from rarefy.export.onnx_runtime import Session

    return Session(folder / "model.onnx")


PARTS = {part.__name__: part for part in (language, gguf, encoder, images, loading)}


def measured(run: Run, report: Part, only: list[str]) -> Iterator[Part]:
    """The report after each part that was asked for, or that it did not have."""
    for name, part in PARTS.items():
        if name in only or (not only and name not in report.get("parts", {})):
            run.missing = {}
            found = part(run)
            report = {
                "command": "python bench/engines.py --python LLAMA_ENV/bin/python",
                "parts": {**report.get("parts", {}), name: {**found, "missing": run.missing, **on()}},
            }
            yield report


def on() -> Part:
    """The machine and the versions, of each part, since parts may be measured apart."""
    return {"machine": machine(), "versions": versions("transformers", "onnxruntime")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=PARTS, default=[], help="measure this part, again if need be"
    )
    parser.add_argument("--python", action="append", default=[], help="of an environment with llama-cpp-python")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default: $RAREFY_CACHE, else cache/")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, help="all cores unless told")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "engines.json")
    asked = parser.parse_args()
    run = Run(asked.cache / "engines", asked.cache, tuple(asked.python), asked.repeat, asked.threads)
    report = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for found in measured(run, report, asked.only):
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
