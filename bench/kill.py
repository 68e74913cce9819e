"""Kill `compress` at moments of all kinds, run it again, and compare what it leaves with an uninterrupted run.

    python bench/kill.py --random 300 --systematic --full --json bench/results/kill.json

Every run is a forked child of one process, so that imports are paid once. Three series:

random      SIGKILL after a random delay, again and again on one OUT until a run finishes; then from the start.
systematic  SIGKILL at the k-th operation that changes the file system (a file opened for writing, a folder made, a
            rename, a removal), for each k.
full        the k-th such operation fails as on a full disk, for each k.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

RECIPE = ["prune.magnitude:n=2,m=4", "quantize.gptq:bits=4,group=16"]
SITES_PER_SEGMENT = 7 * len(RECIPE)

Events = Callable[[str], None]


# ---- the network


def make_network(folder: Path, layers: int = 6, hidden: int = 48, seed: int = 0) -> None:
    """A small Llama with an untied head, and a side file in a folder of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "about.txt").write_text("a side file\n")


def make_data(file: Path, blocks: int = 16, length: int = 32) -> None:
    import numpy as np

    np.savez(file, x=np.random.default_rng(0).integers(0, 128, (blocks, length)))


# ---- a run in a child


@dataclass(frozen=True)
class Scene:
    """What is compressed, to where. work: a line is added to this file for every matrix that is coded."""

    root: Path
    threads: int = 1
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "work", self.root / "coded.log")

    @property
    def out(self) -> Path:
        return self.root / "out"

    def compress(self, out: Path | None = None) -> Any:
        import rarefy

        return rarefy.compress(
            self.root / "model", out or self.out, RECIPE, data=[self.root / "data.npz"], threads=self.threads
        )

    def coded(self) -> int:
        """How many matrices were coded since this was last asked."""
        count = self.work.stat().st_size if self.work.exists() else 0
        self.work.unlink(missing_ok=True)
        return count

    def clear(self) -> None:
        for path in self.others():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        shutil.rmtree(self.out, ignore_errors=True)

    def others(self) -> list[Path]:
        """What is there beside the inputs, OUT and our own notes."""
        own = {"model", "data.npz", "out", "coded.log", "error.txt"}
        return sorted(path for path in self.root.iterdir() if path.name not in own)


def child(scene: Scene, hook: Events | None = None) -> int:
    """Fork; the child compresses. hook: called before each operation that changes the file system."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        count_coding(scene.work)
        if hook is not None:
            sys.addaudithook(_changes(scene.root, hook))
        scene.compress()
        status = 0
    except Exception as error:
        (scene.root / "error.txt").write_text(f"{type(error).__name__}: {error}")
        status = getattr(error, "status", 70)
    finally:
        os._exit(status)


def count_coding(log: Path) -> None:
    """Add a byte to `log` whenever a matrix is coded."""
    from rarefy import joint

    encode = joint.encode
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def counted(*args: Any) -> Any:
        os.write(descriptor, b".")
        return encode(*args)

    joint.encode = counted


def _changes(root: Path, hook: Events) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that calls `hook` for changes below `root`, other than to the scene's own notes."""
    prefix = str(root)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            changing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            changing = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if changing and isinstance(args[0], str | os.PathLike) and not str(args[0]).endswith("error.txt"):
            path = os.fspath(args[0])
            # Removals inside shutil.rmtree name files relative to a folder's descriptor.
            if path.startswith(prefix) or not os.path.isabs(path):
                hook(event)

    return audit


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- series


class Series:
    """Runs on one scene, held to what an uninterrupted run makes."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        began = time.monotonic()
        assert status_of(child(scene)) == 0, (scene.root / "error.txt").read_text()
        self.seconds = time.monotonic() - began
        self.expected = digest(scene.out)
        self.coded = scene.coded()
        scene.clear()

    def finish(self) -> list[str]:
        """Run to the end without a kill; what is wrong afterwards."""
        scene = self.scene
        wrong = []
        status = status_of(child(scene))
        if status:
            wrong.append(f"status {status}: {(scene.root / 'error.txt').read_text()}")
        elif digest(scene.out) != self.expected:
            wrong.append("other bytes")
        if left := [path.name for path in scene.others()]:
            wrong.append(f"left behind: {left}")
        return wrong

    def killed_at_random(self, kills: int, seed: int) -> dict[str, Any]:
        """Until `kills` runs were killed. Each series of runs on one OUT goes on until one of them finishes."""
        chance = random.Random(seed)
        done, finished, wrong, most = 0, 0, [], 0.0
        while done < kills:
            self.scene.clear()
            self.scene.coded()
            here = 0
            while True:
                pid = child(self.scene)
                time.sleep(chance.uniform(0, 1.1 * self.seconds))
                os.kill(pid, signal.SIGKILL)
                if status_of(pid) == 0:
                    break
                done, here = done + 1, here + 1
                if here >= 8:
                    break
            wrong += self.finish()
            finished += 1
            extra = self.scene.coded() - self.coded
            if extra > here * SITES_PER_SEGMENT:
                wrong.append(f"{extra} matrices coded again after {here} kills")
            most = max(most, extra / max(here, 1))
        self.scene.clear()
        return {"kills": done, "outs": finished, "wrong": wrong, "most_coded_again_per_kill": most}

    def operations(self) -> int:
        """How many operations of an uninterrupted run change the file system."""
        log = self.scene.root / "error.txt"
        log.unlink(missing_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        assert status_of(child(self.scene, lambda event: os.write(descriptor, b"."))) == 0
        os.close(descriptor)
        self.scene.clear()
        return log.stat().st_size

    def killed_at(self, moments: Iterator[int] | range) -> dict[str, Any]:
        """A kill before the k-th operation, for each of `moments`; then a run to the end."""
        wrong, count = [], 0
        for k in moments:
            self.scene.clear()
            if status_of(child(self.scene, _at(k, lambda: os.kill(os.getpid(), signal.SIGKILL)))) == 0:
                break
            count += 1
            # A kill once OUT is there leaves the whole of it.
            if self.scene.out.exists() and digest(self.scene.out) != self.expected:
                wrong.append(f"operation {k}: OUT is there and not whole")
            wrong += [f"operation {k}: {what}" for what in self.finish()]
        self.scene.clear()
        return {"kills": count, "wrong": wrong}

    def failed_at(self, moments: Iterator[int] | range) -> dict[str, Any]:
        """The k-th operation and all after it fail for want of space; then a run to the end with space."""
        wrong, count = [], 0
        for k in moments:
            self.scene.clear()
            (self.scene.root / "error.txt").unlink(missing_ok=True)
            status = status_of(child(self.scene, _at(k, _no_space, onwards=True)))
            if status == 0:
                # From here on only clearing up fails, which does no harm.
                wrong += [f"operation {k}: other bytes"] if digest(self.scene.out) != self.expected else []
                continue
            count += 1
            said = (self.scene.root / "error.txt").read_text()
            if status != 1 or "the disk is full" not in said or "\n" in said or "ResourceError" not in said:
                wrong.append(f"operation {k}: status {status}, {said}")
            if self.scene.out.exists():
                wrong.append(f"operation {k}: OUT is there")
            wrong += [f"operation {k}: {what}" for what in self.finish()]
        self.scene.clear()
        return {"failures": count, "wrong": wrong}


def _at(k: int, act: Callable[[], None], onwards: bool = False) -> Events:
    """Acts at the k-th event, or from it on."""
    seen = 0

    def hook(event: str) -> None:
        nonlocal seen
        seen += 1
        # Removing works on a full disk.
        removing = event in ("os.remove", "os.rmdir")
        if seen == k or (onwards and seen > k and not removing):
            act()

    return hook


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def preload() -> None:
    """Import, in the parent, what every child needs; nothing that starts threads."""
    from transformers import LlamaForCausalLM  # noqa: F401

    import rarefy.methods.prune.magnitude
    import rarefy.methods.quantize.gptq
    import rarefy.plan.compress
    import rarefy.plan.trace  # noqa: F401
    from rarefy.plan.identity import source_digest

    source_digest()  # the source that was imported, whatever is edited while this runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=0, metavar="N", help="kill so many runs at random moments")
    parser.add_argument("--systematic", action="store_true", help="kill at every operation")
    parser.add_argument("--full", action="store_true", help="let every operation fail for want of space")
    parser.add_argument("--step", type=int, default=1, help="only every so many operations")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="write the result here, with machine and versions")
    asked = parser.parse_args()
    preload()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        result = measured(Path(os.path.realpath(folder)), asked)
    result["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(result, indent=1))
    if asked.json:
        from machine import machine, versions

        about = {"command": " ".join(["python", *sys.argv]), "machine": machine(), "versions": versions("transformers")}
        asked.json.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    sys.exit(any(part["wrong"] for part in result.values() if isinstance(part, dict)))


def measured(root: Path, asked: argparse.Namespace) -> dict[str, Any]:
    # The network is made in a child too: torch's threads do not survive a fork.
    pid = os.fork()
    if not pid:
        make_network(root / "model", asked.layers)
        make_data(root / "data.npz")
        os._exit(0)
    assert status_of(pid) == 0
    series = Series(Scene(root, asked.threads))
    result: dict[str, Any] = {"seconds_a_run": round(series.seconds, 2), "matrices": series.coded}
    if asked.random:
        result["random"] = series.killed_at_random(asked.random, asked.seed)
    if asked.systematic or asked.full:
        result["operations"] = series.operations()
        moments = range(1, result["operations"] + 1, asked.step)
        if asked.systematic:
            result["systematic"] = series.killed_at(moments)
        if asked.full:
            result["full"] = series.failed_at(moments)
    return result


if __name__ == "__main__":
    main()
