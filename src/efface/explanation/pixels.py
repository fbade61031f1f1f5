"""A classifier as a function of pixels in [0, 1], so that what is removed, kept and drawn are pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._validate import check_type
from efface.attribution.removal_images import as_images
from efface.core.arrays import dense
from efface.core.doors import check_call


class PixelModel(nn.Module):
    """Pixels `(n, channels, h, w)` in [0, 1] -> logits `(n, classes)`, by way of a model that wants them normalised.

    Computes `model((x - mean) / std)`. Where the model returns an object with `logits`, as those of transformers do, it
    takes these. The model is put into eval mode.

    Attributes:
        model: The model given; it is the same object.

    Args:
        model: Takes normalised pixels.
        mean: One value a channel, in units of [0, 1]; 0 by default.
        std: As many; 1 by default.

    Raises:
        InputError: If there are not as many means as stds, or a std is 0.

    >>> model = PixelModel(nn.Sequential(nn.Flatten(), nn.Identity()), mean=(0.5,), std=(0.25,))
    >>> model(torch.ones(1, 1, 1, 2))
    tensor([[2., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> None:
        check_call(PixelModel.__init__, locals())
        super().__init__()
        if len(mean) != len(std) or not all(std):
            raise InputError(f"mean={tuple(mean)} and std={tuple(std)}: write one of each a channel, and no std of 0")
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """Logits of pixels in [0, 1]."""
        x = as_images(dense(check_type(x, Tensor, "x"), "x"))
        said = self.model((x - self.mean.to(x)) / self.std.to(x))
        return said if isinstance(said, Tensor) else getattr(said, "logits", said)
