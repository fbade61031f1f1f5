"""Removals of images: one colour, or the image itself without its detail; and the check on a declared range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from efface._errors import InputError
from efface._validate import to_tensor
from efface.core.doors import check_call, check_fields
from efface.core.saved_types import saved

_ROUNDING = 1e-6


@saved
@dataclass(frozen=True)
class ConstantColour:
    """One colour an image: `q = clamp(mean + std * eps)`, with eps normal, one a channel.

    Source: the released code of arXiv 2307.15007, whose mean is (.527, .447, .403) and std (.229, .224, .225).

    Attributes:
        mean: One value a channel.
        std: As many; 0 gives the mean itself.
        low: Least value of an image; images below are refused.
        high: Greatest value of an image.

    Does not guarantee: that the colour is unlike the image; where they are alike, removal changes nothing.

    >>> grey = ConstantColour((0.5,), (0.0,))
    >>> grey.sample(torch.zeros(1, 1, 1, 2), torch.Generator())
    tensor([[[[0.5000, 0.5000]]]])
    """

    mean: Sequence[float]
    std: Sequence[float]
    low: float = 0.0
    high: float = 1.0

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        _check_range(self.low, self.high)
        for name in ("mean", "std"):
            object.__setattr__(self, name, _floats(getattr(self, name), name))
        if len(self.mean) != len(self.std):
            raise InputError(f"{len(self.mean)} means and {len(self.std)} stds: write one of each a channel")
        if min(self.std) < 0:
            raise InputError(f"std={self.std}: write numbers of at least 0")

    @classmethod
    def of(cls, images: Any, *, low: float = 0.0, high: float = 1.0) -> ConstantColour:
        """Mean and std of each channel over all pixels of images `(n, c, h, w)`."""
        check_call(ConstantColour.of, locals())
        x = as_images(to_tensor(images, "images"))
        check_image_range(x, low, high, cls.__name__)
        # By parts, so that no copy of all images in float64 is made.
        pixels, parts = x[:, 0].numel(), x.split(256)
        mean = torch.stack([part.double().sum((0, 2, 3)) for part in parts]).sum(0) / pixels
        away = [(part.double() - mean.view(-1, 1, 1)).square().sum((0, 2, 3)) for part in parts]
        return cls(mean.tolist(), (torch.stack(away).sum(0) / pixels).sqrt().tolist(), low, high)

    def check(self, x: Tensor) -> None:
        """Refuse what is no image of these channels and this range."""
        check_call(ConstantColour.check, locals())
        self._check_channels(x)
        check_image_range(x, self.low, self.high, type(self).__name__)

    def _check_channels(self, x: Tensor) -> None:
        if as_images(x).shape[1] != len(self.mean):
            raise InputError(
                f"images have {x.shape[1]} channels and ConstantColour has {len(self.mean)} means: write one mean and "
                "one std a channel, or ConstantColour.of(images)"
            )

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """A constant image for each sample."""
        check_call(ConstantColour.sample, locals())
        self._check_channels(x)
        noise = torch.randn(len(x), len(self.mean), 1, 1, generator=generator, device=generator.device)
        mean, std = (torch.tensor(v, device=generator.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (mean + std * noise).clamp(self.low, self.high).to(x.device, x.dtype).expand_as(x).contiguous()


@saved
@dataclass(frozen=True)
class Blur:
    """The image itself, blurred by a Gaussian: fine detail is removed and colour stays. Not random.

    Attributes:
        sigma: Standard deviation in pixels; the kernel ends at three of them, edges are repeated.
        low: Least value of an image.
        high: Greatest.

    Does not guarantee: that anything is removed where the image is smooth already.
    """

    sigma: float
    low: float = 0.0
    high: float = 1.0

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check_range(self.low, self.high)
        if not 0 < self.sigma < math.inf:
            raise InputError(f"sigma={self.sigma}: write a number of pixels above 0, e.g. sigma=4")

    def check(self, x: Tensor) -> None:
        """Refuse what is no image of this range."""
        check_call(Blur.check, locals())
        check_image_range(as_images(x), self.low, self.high, type(self).__name__)

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """The blurred images; the generator is not used."""
        check_call(Blur.sample, locals())
        as_images(x)
        reach = math.ceil(3 * self.sigma)
        place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-((place / self.sigma) ** 2) / 2)
        kernel = kernel / kernel.sum()
        n, c, h, w = x.shape
        rows = F.pad(x.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
        rows = F.conv2d(F.conv2d(rows, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return rows.reshape(n, c, h, w).clamp(self.low, self.high)


def check_image_range(x: Tensor, low: float, high: float, name: str) -> None:
    """Refuse values outside [low, high], and say how to bring them in.

    >>> check_image_range(torch.tensor([0.0, 255.0]), 0.0, 1.0, "Blur")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: values run from 0 to 255, and Blur declares 0 to 1: write x / 255, or declare Blur(..., \
low=0, high=255)
    """
    if not x.numel():
        raise InputError(f"there are no values: {name} needs one sample at least")
    least, most = float(x.min()), float(x.max())
    if math.isnan(least):
        raise InputError(f"values are NaN: {name} needs numbers, drop or impute those samples first")
    room = 0.0 if math.isinf(high - low) else _ROUNDING * (high - low)
    if least >= low - room and most <= high + room:
        return
    hint = "x / 255" if least >= 0 and 2 < most <= 255 and high == 1 else f"x.clamp({low:g}, {high:g})"
    raise InputError(
        f"values run from {least:.4g} to {most:.4g}, and {name} declares {low:g} to {high:g}: write {hint}, "
        f"or declare {name}(..., low={least:.4g}, high={most:.4g})"
    )


def as_images(x: Tensor) -> Tensor:
    """`x` if it is a batch of float images `(n, channels, h, w)`."""
    if x.ndim != 4:
        raise InputError(f"x has shape {tuple(x.shape)}: expected images (n, channels, height, width)")
    if not x.is_floating_point():
        raise InputError(f"images are {x.dtype}: write x.float() / 255, or convert them otherwise to floats")
    return x


def _floats(values: Any, name: str) -> tuple[float, ...]:
    found = tuple(float(v) for v in (values if isinstance(values, Sequence) else to_tensor(values, name).reshape(-1)))
    if not found or not all(math.isfinite(v) for v in found):
        raise InputError(f"{name}={found}: write one finite number a channel")
    return found


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"low={low}, high={high}: write the least and the greatest value of an image, e.g. 0 and 1")
