"""Small classifiers of images, tables and tokens, and what they are asked about."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.identity.inputs.arrays import source


def squares(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square of one of three colours, the class, on noise; `(n, 3, 12, 12)`, its class and its place."""
    g = source(seed)
    images = 0.5 * torch.rand(n, 3, 12, 12, generator=g)
    labels = torch.randint(3, (n,), generator=g)
    signal = torch.zeros(n, 12, 12, dtype=torch.bool)
    for i, (top, left) in enumerate(torch.randint(0, 9, (n, 2), generator=g).tolist()):
        images[i, labels[i], top : top + 4, left : left + 4] = 0.95
        signal[i, top : top + 4, left : left + 4] = True
    return images, labels, signal


@cache
def _colour_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.MaxPool2d(4)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 3))
        x, labels, _ = squares()
        train(model, x, labels)
    return model.eval()


def train(model: nn.Module, x: Tensor, labels: Tensor, steps: int = 60, rate: float = 0.01) -> None:
    """Train a model in place, all inputs at once."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()


def colour_net() -> nn.Sequential:
    """A network with batch normalisation and dropout that tells the squares apart; a fresh copy, in eval mode."""
    return copy.deepcopy(_colour_net())


def convolutional(seed: int = 0, classes: int = 3) -> nn.Module:
    """Two convolutions with batch normalisation that has seen data, untrained, for images of 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_()
            model.train()(pictures(32, seed=99))
    return model.eval()


def pictures(n: int = 4, size: int = 8, seed: int = 0) -> Tensor:
    """Noise `(n, 3, size, size)` in [0, 1]."""
    return torch.rand(n, 3, size, size, generator=source(seed))


def table_net() -> nn.Module:
    """A small network of a table `(n, 6)`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def table_rows(n: int = 12) -> Tensor:
    """Rows `(n, 6)` for `table_net`."""
    return 2 * torch.randn(n, 6, generator=source(8))


class TokenNet(nn.Module):
    """Token ids `(n, tokens)` to logits `(n, 3)`, in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        return 3 * self.head(self.embedding(ids).tanh().mean(1))


def token_rows(n: int = 6) -> Tensor:
    """Ids `(n, 7)` for `TokenNet`; 0 stands for padding."""
    ids = torch.randint(2, 20, (n, 7), generator=source(9))
    ids[::2, -2:] = 0
    return ids


REMOVAL: dict[str, Any] = {"mean": (0.25, 0.25, 0.25), "std": (0.1, 0.1, 0.1)}
"""Arguments of `ConstantColour`: near the colour of the noise."""
QUICK_DIET: dict[str, Any] = {
    "step": 0.1,
    "steps": 15,
    "epochs": 3,
    "rate": 1e-3,
    "stop": 0.0,
    "batch_size": 32,
}
"""Settings of DiET that take a second."""
