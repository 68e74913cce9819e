"""The loop: AdamW as torch has it, the same bytes after a kill and in several processes, diverging said."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rarefy.errors import RarefyError
from rarefy.training import Training, cosine, train
from rarefy.training.checkpoint import Checkpoint

TARGETS = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
PLAN = Training(steps=12, accumulate=2, rate=0.05, every=5)


def leaf() -> dict[str, torch.Tensor]:
    return {"w": torch.zeros(5), "unused": torch.ones(2)}


def to_target(leaves: dict[str, torch.Tensor]):
    def loss(j: int) -> torch.Tensor:
        noise = 0.1 * torch.randn(5)
        return (leaves["w"] - TARGETS[j] - noise).square().mean()

    return loss


def trained(plan: Training = PLAN, checkpoint: Path | None = None, seed: int = 0) -> tuple[bytes, list[float]]:
    leaves = leaf()
    losses = train(leaves, to_target(leaves), len(TARGETS), plan, seed=seed, checkpoint=checkpoint)
    return leaves["w"].detach().numpy().tobytes(), losses


def test_it_is_torchs_adamw_over_all_batches_in_turn() -> None:
    """With every batch in every step the order does not matter, and a plain loop gives the same."""
    plan = Training(steps=6, accumulate=len(TARGETS), rate=0.1, warmup=0.5, clip=0.2, decay=0.1)
    leaves = {"w": torch.zeros(5)}
    train(leaves, lambda j: (leaves["w"] - TARGETS[j]).square().mean(), len(TARGETS), plan)
    w = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.AdamW([w], betas=plan.betas, weight_decay=plan.decay)
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = plan.rate * cosine(step, plan.steps, plan.warmup)
        optimizer.zero_grad()
        (w - TARGETS).square().mean().backward()
        torch.nn.utils.clip_grad_norm_([w], plan.clip)
        optimizer.step()
    torch.testing.assert_close(leaves["w"], w)


def test_every_batch_comes_once_before_any_comes_again() -> None:
    seen: list[int] = []
    leaves = {"w": torch.zeros(1)}

    def loss(j: int) -> torch.Tensor:
        seen.append(j)
        return leaves["w"].sum()

    train(leaves, loss, 6, Training(steps=6, accumulate=2), seed=5)
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6)) and seen[:6] != seen[6:]


@pytest.mark.parametrize("after", [5, 10])
def test_a_killed_training_ends_in_the_same_bytes(after: int, tmp_path: Path, monkeypatch) -> None:
    whole, losses = trained()
    save = Checkpoint.save

    def dies(self: Checkpoint, step: int, tensors) -> None:
        save(self, step, tensors)
        if step == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "deep" / "state")
    monkeypatch.undo()
    assert trained(checkpoint=tmp_path / "deep" / "state") == (whole, losses[after:])
    assert trained(checkpoint=tmp_path / "deep" / "state") == (whole, [])


@pytest.mark.parametrize("damage", ["cut", "flipped", "other settings", "other seed"])
def test_a_checkpoint_that_is_not_its_own_is_not_used(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    if damage.startswith("other"):
        plan = Training(steps=12, accumulate=2, rate=0.06, every=5) if damage == "other settings" else PLAN
        trained(plan, path, seed=int(damage == "other seed"))
    else:
        trained(checkpoint=path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    assert trained(checkpoint=path) == trained()


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    trained()
    assert torch.equal(torch.rand(3), wanted)


def test_a_loss_that_is_no_number_is_said() -> None:
    leaves = {"w": torch.zeros(1)}
    with pytest.raises(RarefyError, match="not a number in step 1; lower the rate"):
        train(leaves, lambda j: leaves["w"].sum() * float("nan"), 2, PLAN)


def test_the_rate_rises_then_falls() -> None:
    shares = np.array([cosine(step, 20, 0.2) for step in range(20)])
    assert np.all(np.diff(shares[:5]) > 0) and shares[4] == 1 and np.all(np.diff(shares[4:]) < 0) and shares[-1] < 0.02
    assert cosine(0, 1, 0.0) == 1


WORKER = """
import torch, sys
sys.path.insert(0, sys.argv[1])
import test_loop as t
from accelerate import PartialState
leaves = {"w": torch.zeros(5)}
t.train(leaves, lambda j: (leaves["w"] - t.TARGETS[j]).square().mean(), len(t.TARGETS), t.Training(6, 3, rate=0.05))
if PartialState().is_main_process:
    print(leaves["w"].detach().tolist())
"""


def test_two_processes_do_the_work_of_one(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "worker.py"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    leaves = {"w": torch.zeros(5)}
    plan = Training(6, 3, rate=0.05)
    train(leaves, lambda j: (leaves["w"] - TARGETS[j]).square().mean(), len(TARGETS), plan)
    found = next(line for line in done.stdout.splitlines() if line.startswith("["))
    np.testing.assert_allclose(eval(found), leaves["w"].detach().numpy(), rtol=1e-5)
