"""Bright squares on noise, a small network that tells their colours, and settings of DiET that take a second."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Generator, Tensor, nn

from efface.attribution import ConstantColour, DiET, Grid


def source(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@cache
def squares(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A bright square of one of three colours, the class, on noise; `(n, 3, 12, 12)`, its class and its place."""
    generator = source(seed)
    images = 0.5 * torch.rand(n, 3, 12, 12, generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    signal = torch.zeros(n, 12, 12, dtype=torch.bool)
    for i, (top, left) in enumerate(torch.randint(0, 9, (n, 2), generator=generator).tolist()):
        images[i, labels[i], top : top + 4, left : left + 4] = 0.95
        signal[i, top : top + 4, left : left + 4] = True
    return images, labels, signal


def trained(model: nn.Module, x: Tensor, labels: Tensor, steps: int = 60, rate: float = 0.01) -> nn.Module:
    """The model, trained in place and put in eval mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def colour_net(seed: int = 0) -> nn.Sequential:
    """A network with batch normalisation and dropout that tells the squares apart; a fresh copy."""
    return copy.deepcopy(_colour_net(seed))


@cache
def _colour_net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.MaxPool2d(4)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 3))
    x, labels, _ = squares()
    trained(model, x, labels)
    assert (model(x).argmax(1) == labels).float().mean() > 0.95
    return model


def quick_diet() -> DiET:
    # Near the colour of the noise, so that what stands in a removed place is no square of another class.
    removal = ConstantColour((0.25,) * 3, (0.1,) * 3)
    return DiET(removal, Grid(2), step=0.1, steps=15, epochs=3, rate=1e-3, stop=0.0, batch_size=32)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
