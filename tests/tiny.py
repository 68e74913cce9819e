"""Tiny networks, made on the spot, one of each family and of what belongs to none."""

import numpy as np
import torch
import transformers
from torch import nn
from zoo import VOCABULARY, ZOO

from rarefy.evidence import Evidence, Forgetful, Visited
from rarefy.model import Model
from rarefy.progress import Silent

torch.set_num_threads(1)  # products this small only wait for a second one

TOKENS = ("llama", "llama_tied", "mistral", "qwen2", "qwen3", "smollm3", "bert", "bert_classifier", "bert_masked")
TWO_STACKS = ("t5", "bart")
IMAGES = ("resnet", "resnet_base", "torch_resnet")
VECTORS = ("chain",)
NETWORKS = (*TOKENS, *IMAGES, *VECTORS)


class Memory(Forgetful):
    """A journal in memory, and a knife: the pass dies when a step is to be saved that `dies` names."""

    def __init__(self, dies: str = "") -> None:
        super().__init__()
        self.steps: dict[str, Visited] = {}
        self.dies = dies

    def load(self, step: str) -> Visited | None:
        return self.steps.get(step)

    def save(self, step: str, made: Visited) -> Visited:
        if step.endswith(self.dies or "never"):
            raise KeyboardInterrupt
        return self.steps.setdefault(step, made)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return globals()[name]().eval()


def inputs(name: str, n: int = 6) -> np.ndarray:
    random = np.random.default_rng(7)
    if name in (*TOKENS, *TWO_STACKS):
        return random.integers(3, VOCABULARY, (n, 12))
    shape = (n, 3, 16, 16) if name in IMAGES else (n, 20)
    return random.normal(size=shape).astype(np.float32)


def evidence(name: str, n: int = 6, **more) -> Evidence:
    return Evidence(inputs(name, n), progress=Silent(), **more)


def opened(name: str) -> Model:
    return Model.from_module(build(name))


def _decoder(name: str, **more) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **more,
    )
    return getattr(transformers, f"{name}ForCausalLM")(config)


def llama() -> nn.Module:
    return _decoder("Llama", tie_word_embeddings=False)


def llama_tied() -> nn.Module:
    return _decoder("Llama", tie_word_embeddings=True)


def mistral() -> nn.Module:
    return _decoder("Mistral", sliding_window=4)


def qwen2() -> nn.Module:
    return _decoder("Qwen2")


def qwen3() -> nn.Module:
    return _decoder("Qwen3", head_dim=8)


def smollm3() -> nn.Module:
    return _decoder("SmolLM3", tie_word_embeddings=True)


def _bert() -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )


def bert() -> nn.Module:
    return transformers.BertModel(_bert())


def t5() -> nn.Module:
    return ZOO["t5"].build()


def bart() -> nn.Module:
    return ZOO["bart"].build()


def bert_classifier() -> nn.Module:
    return transformers.BertForSequenceClassification(_bert())


def bert_masked() -> nn.Module:
    return transformers.BertForMaskedLM(_bert())


def _resnet() -> transformers.ResNetConfig:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=5
    )


def resnet() -> nn.Module:
    return transformers.ResNetForImageClassification(_resnet())


def resnet_base() -> nn.Module:
    return transformers.ResNetModel(_resnet())


class Block(nn.Module):
    """The residual block of most hand-written ResNets, with shortcuts without weights."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.widen = after - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu_(self.bn1(self.conv1(x)))))
        if self.widen:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.widen))
        return torch.relu_(y.add_(x))


class TorchResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.layer2 = nn.Sequential(Block(8, 16), Block(16, 16))
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(torch.relu(self.conv(x))))
        return self.linear(x.mean((2, 3)))


def torch_resnet() -> nn.Module:
    net = TorchResNet()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return net


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 24), nn.ReLU(inplace=True), nn.Linear(24, 16), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)
    )


class Skipping(nn.Module):
    """Stages that look like a ResNet's, and a connection from the first one past the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
        self.layer2 = nn.Sequential(nn.Linear(20, 20))
        self.out = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.layer1(x)
        return self.out(torch.tanh(self.layer2(early) + early))


class Between(Skipping):
    """Something happens between the stages."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer2(torch.tanh(self.layer1(x))))


class Pair(nn.Module):
    """Gives a tuple, as recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(20, 20, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lstm(x[:, None])[0][:, 0], x


class Sum(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return pair[0] + pair[1]


class Strange(nn.Module):
    """What no method understands yet, beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(20, 20))
        self.lstm = nn.LSTM(20, 20, batch_first=True)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.unused = nn.Linear(20, 20)
        self.head = nn.Linear(20, 5)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(20, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lstm((x @ self.mix)[:, None])[0][:, 0]
        x = self.grouped(x.view(-1, 4, 5, 1)).flatten(1)
        return self.head(self.normed(x))


def skipping() -> nn.Module:
    return Skipping()


def between() -> nn.Module:
    return Between()


def pair() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 20), Pair(), Sum(), nn.Linear(20, 5))


def strange() -> nn.Module:
    return Strange()
