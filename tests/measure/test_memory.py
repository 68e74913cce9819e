import resource
import subprocess
import sys
import time

import pytest

from rarefy.measure import memory

GIB = 1 << 30


def machine(root, *, free=8 * GIB, cgroup="", status=""):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:  {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/status").write_text(status)
    return root


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture
def on(monkeypatch):
    def enter(root):
        monkeypatch.setattr(memory, "_PROC", root / "proc")
        monkeypatch.setattr(memory, "_CGROUP", root / "cgroup")

    return enter


def test_a_machine_without_limits(tmp_path, on):
    on(machine(tmp_path))
    assert memory.available() == 8 * GIB


def test_the_tightest_cgroup_of_version_2_counts(tmp_path, on):
    on(machine(tmp_path, cgroup="0::/job/step\n"))
    group(tmp_path / "cgroup/job/step", memory__max="max", memory__current=GIB)
    group(
        tmp_path / "cgroup/job",
        memory__max=4 * GIB,
        memory__current=3 * GIB,
        memory__stat=f"anon 5\ninactive_file {GIB}",
    )
    assert memory.available() == 2 * GIB


def test_a_container_of_version_1_has_its_limit_at_the_root(tmp_path, on):
    on(machine(tmp_path, cgroup="5:cpu:/x\n4:memory:/docker/abc\n0::/\n"))
    group(tmp_path / "cgroup/memory", memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=GIB)
    assert memory.available() == 2 * GIB


def test_more_used_than_allowed_leaves_nothing(tmp_path, on):
    on(machine(tmp_path, cgroup="0::/\n"))
    group(tmp_path / "cgroup", memory__max=GIB, memory__current=2 * GIB)
    assert memory.available() == 0


def test_own_limits_count(tmp_path, on, monkeypatch):
    on(machine(tmp_path, status=f"VmSize:\t{GIB // 1024} kB\nVmData:\t{GIB // 2048} kB\n"))
    limits = {resource.RLIMIT_AS: 3 * GIB, resource.RLIMIT_DATA: GIB}
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (limits[which], -1))
    assert memory.available() == GIB // 2


def test_a_system_without_proc(tmp_path, on):
    on(tmp_path)
    assert memory.available() > 0
    assert memory.resident() == memory.peak()


def test_an_address_space_limit_is_seen_by_a_real_process():
    program = (
        "import resource\nfrom rarefy.measure import memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\nprint(memory.available())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2 * GIB


def test_a_peak_is_caught_after_it_is_gone():
    size = memory.peak() - memory.resident() + 100_000_000  # sets the record, so nothing hangs on a sample
    with memory.Peak() as tall:
        block = bytearray(size)
        del block
    with memory.Peak() as low:
        time.sleep(0.03)
    assert 0.95 * size < tall.above < 1.2 * size
    assert low.above < 50e6


BELOW_THE_RECORD = """
import time
from rarefy.measure import memory

record = bytearray(300_000_000)
del record
with memory.Peak() as sampled:
    block = bytearray(100_000_000)
    time.sleep(0.3)
    del block
print(sampled.above)
"""


def test_a_peak_below_the_record_is_sampled():
    # In a process of its own: what other tests leave to the garbage collector would be freed inside the block.
    said = subprocess.run([sys.executable, "-c", BELOW_THE_RECORD], capture_output=True, text=True, check=True)
    assert 90e6 < int(said.stdout) < 150e6


def test_processor_time_rises():
    start = memory.cpu_seconds()
    sum(range(1_000_000))
    assert memory.cpu_seconds() > start
