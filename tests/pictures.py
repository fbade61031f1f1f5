"""Small models and images for the tests of attribution: each is simple enough to be explained by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Constant:
    """A removal that always draws the same value."""

    value: float = 0.0

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.full_like(x, self.value)


class Noise:
    """A removal that draws uniform numbers."""

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.rand(x.shape, generator=generator).to(x)


class Net(nn.Module):
    """A convolution, batch normalisation with statistics of its own, dropout, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
            self.head = nn.Linear(6 * 64, 4)
            norm = self.body[1]
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
            norm.running_mean.uniform_(0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1)) * 20


def images(n: int = 4, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def linear(size: int = 8, classes: int = 3, seed: int = 0) -> nn.Module:
    """One linear layer on all values of an image: every gradient is its weight."""
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes)).eval()


def convolutional(seed: int = 0, *, classes: int = 3, inplace: bool = False) -> nn.Module:
    """Two convolutions with batch normalisation that has seen data, so that its implicit bias is not zero."""
    with seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=inplace),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_()
            model.train()(images(32, seed=99))
        return model.eval()


def hooks(model: nn.Module) -> int:
    """How many hooks there are in a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
