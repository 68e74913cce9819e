"""Networks whose outputs can be written out by hand, and data for them."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from rarefy.evidence.sources import Arrays, Tokens

VOCABULARY = 11


class Bigram(nn.Module):
    """Logits that depend on the token before."""

    def __init__(self, seed=0, noise=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        torch.manual_seed(seed)
        self.table.weight.data += noise * torch.randn(VOCABULARY, VOCABULARY)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids):
        return SimpleNamespace(logits=self.dropout(self.table(ids)))


class Linear(nn.Module):
    def __init__(self, d_in, d_out, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(d_in, d_out)

    def forward(self, x):
        return self.layer(x.flatten(1))


def blocks(n=70, length=9, seed=0):
    return Tokens(np.random.default_rng(seed).integers(0, VOCABULARY, (n, length)), "", "random tokens")


def examples(n=100, classes=4, y=True):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 2, 3)).astype(np.float32)
    return Arrays(x, rng.integers(0, classes, n) if y else None, "random arrays")
