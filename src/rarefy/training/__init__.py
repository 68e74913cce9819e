"""Training: the one loop, its schedules, its checkpoints, and losses in nats."""

from rarefy.training.augment import augmentation
from rarefy.training.loop import Training, train
from rarefy.training.losses import Divergence, Objective, divergence
from rarefy.training.schedule import cosine

__all__ = ["Divergence", "Objective", "Training", "augmentation", "cosine", "divergence", "train"]
