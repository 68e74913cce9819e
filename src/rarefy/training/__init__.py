"""Training: the one loop, its schedules, its checkpoints, and losses in nats."""

from rarefy.training.loop import Training, train
from rarefy.training.losses import Divergence, divergence
from rarefy.training.schedule import cosine

__all__ = ["Divergence", "Training", "cosine", "divergence", "train"]
