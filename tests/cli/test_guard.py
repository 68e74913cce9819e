"""Errors are one line, help is quick, and stdout is data: in processes of their own where that is the point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.command import rarefy

from rarefy.cli.guard import INTERRUPTED, guarded, told
from rarefy.errors import FormatError, ResourceError, UsageError

COMMAND = (sys.executable, "-m", "rarefy.cli")


def fail(error: BaseException) -> int:
    def run() -> None:
        raise error

    return guarded(run)


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (UsageError("a", "b", "c"), "a: b; c", 2),
        (FormatError("a"), "a", 1),
        (ResourceError("a", "b"), "a: b", 1),
        (MemoryError(), "out of memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory", 1),
        (OSError(28, "No space left on device", "x"), "x: no space left on device", 1),
        (KeyError("odd\nthing"), "KeyError: 'odd\\nthing'", 1),
        (ValueError(), "ValueError: no message", 1),
    ],
)
def test_every_error_is_one_line(error: Exception, line: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(error) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {line}")
    assert said.err.count("\n") == 1


def test_long_messages_of_others_are_cut() -> None:
    line, _ = told(ValueError("word " * 1000))
    assert len(line) < 500


def test_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREFY_TRACEBACK", "1")
    with pytest.raises(KeyError):
        fail(KeyError("odd"))


def test_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyboardInterrupt()) == INTERRUPTED == 130
    assert "interrupted; run the same command again to go on" in capsys.readouterr().err


def test_unknown_verb() -> None:
    said = rarefy("frobnicate")
    assert said.status == 2
    assert "`rarefy --help` explains" in said.error()


def test_version_and_bare_call() -> None:
    import rarefy as library

    assert rarefy("--version").out == f"rarefy {library.__version__}\n"
    bare = rarefy()
    assert bare.status == 0
    assert "compress" in bare.out


@pytest.mark.parametrize("verb", ["inspect", "compress", "evaluate", "generate", "verify", "unpack", "methods"])
def test_every_verb_explains_itself(verb: str) -> None:
    said = rarefy(verb, "-h")
    assert said.status == 0
    assert f"rarefy {verb}" in said.out
    assert "Examples" in said.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['rarefy', 'compress', '--help']\n"
        "from rarefy.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_closed_pipe_is_quiet() -> None:
    with subprocess.Popen([*COMMAND, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_interrupted_compress_goes_on(llama: Path, tmp_path: Path) -> None:
    words = ["compress", llama, tmp_path / "out", "-m", "quantize.gptq:group=16", "--length", "32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([*COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("reading"):
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        status = process.wait()
    if status != 0:  # it may have been quicker than the signal
        assert status == INTERRUPTED
        assert rest.splitlines()[-1] == "error: interrupted; run the same command again to go on"
        assert not (tmp_path / "out").exists()
    assert rarefy(*words).status == 0
