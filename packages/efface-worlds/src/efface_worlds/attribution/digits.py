"""The handwritten digits that ship with scikit-learn, split into sources for training and for testing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._lazy import require

CLASSES = tuple("0123456789")
INK = 0.5
"""Share of ink from which a pixel belongs to the digit."""

_TEST = 0.3


@dataclass(frozen=True)
class Sources:
    """Digits to draw with.

    Attributes:
        ink: Share of ink of each pixel, `(m, 8, 8)` in [0, 1].
        labels: `(m,)` int64.
        index: Which digits of scikit-learn these are, `(m,)`.
    """

    ink: Tensor
    labels: Tensor
    index: Tensor

    def draw(self, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """N digits with replacement: their ink, bilinearly enlarged to `(n, size, size)`, and labels `(n,)`."""
        chosen = torch.randint(len(self.labels), (n,), generator=generator)
        return enlarged(self.ink[chosen], size), self.labels[chosen]


def digit_sources(generator: torch.Generator) -> tuple[Sources, Sources]:
    """Sources for training (70 %) and for testing: no digit is in both.

    Source: "Optical Recognition of Handwritten Digits", UCI, 1,797 digits of 8 x 8; ships with scikit-learn.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    ink, labels = _load()
    order = torch.randperm(len(labels), generator=generator)
    cut = round(len(order) * _TEST)
    test, train = (Sources(ink[part], labels[part], part) for part in (order[:cut], order[cut:]))
    return train, test


def enlarged(ink: Tensor, size: int) -> Tensor:
    """Ink `(n, 8, 8)` at another size, `(n, size, size)`."""
    return F.interpolate(ink[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]


@cache
def _load() -> tuple[Tensor, Tensor]:
    data = require("sklearn.datasets", extra="sklearn").load_digits()
    return torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target).long()
