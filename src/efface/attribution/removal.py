"""What stands where something is removed: the distribution Q of the explanation, as one object.

The same object serves the masks, the tuning, the explanation and the audit, so that they speak of one Q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_tensor

Unit = Literal["feature", "sample"]
_ROUNDING = 1e-6


@runtime_checkable
class Removal(Protocol):
    """Draws what stands in the place of removed features.

    A removal may also have `random = False` (every draw is the same, so that one is enough) and `check(x)`, which
    raises an `InputError` for samples that it does not fit.
    """

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """One fresh draw for each of n samples.

        Args:
            x: Samples `(n, ...)`, on any device.
            generator: Where all randomness comes from; its device need not be that of `x`.

        Returns:
            A tensor with the shape, dtype and device of `x`.
        """
        ...


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
        x = _images(to_tensor(images, "images"))
        check_image_range(x, low, high, cls.__name__)
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        return cls(mean.tolist(), std.tolist(), low, high)

    def check(self, x: Tensor) -> None:
        """Refuse what is no image of these channels and this range."""
        if _images(x).shape[1] != len(self.mean):
            raise InputError(
                f"images have {x.shape[1]} channels and ConstantColour has {len(self.mean)} means: write one mean and "
                "one std a channel, or ConstantColour.of(images)"
            )
        check_image_range(x, self.low, self.high, type(self).__name__)

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """A constant image for each sample."""
        noise = torch.randn(len(x), len(self.mean), 1, 1, generator=generator, device=generator.device)
        mean, std = (torch.tensor(v, device=generator.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (mean + std * noise).clamp(self.low, self.high).to(x.device, x.dtype).expand_as(x).contiguous()


@dataclass(frozen=True, eq=False)
class Marginal:
    """Values of other samples: of each place by itself, or one whole other sample.

    Attributes:
        reference: Samples `(r, ...)` of the shape of those explained: images, rows of a table, token ids.
        unit: `"feature"` draws each place from another sample (a pixel keeps its channels together), which is the
            product of the marginals; `"sample"` takes one other sample whole.
        low: Least value that may be explained, where one is declared.
        high: Greatest.

    Does not guarantee: that another sample is drawn than the explained one, where that is in the reference.

    >>> table = torch.tensor([[1.0, 10.0], [1.0, 20.0]])
    >>> Marginal(table).sample(torch.zeros(1, 2), torch.Generator().manual_seed(0))[0, 0]
    tensor(1.)
    """

    reference: Tensor
    unit: Unit = "feature"
    low: float | None = None
    high: float | None = None

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", to_tensor(self.reference, "reference"))
        if self.reference.ndim < 2 or not self.reference.numel():
            raise InputError(f"reference has shape {tuple(self.reference.shape)}: give samples (r, ...), at least one")
        if self.reference.is_floating_point():
            check_finite(self.reference.flatten(1), "reference")
        if self.unit not in get_args(Unit):
            raise InputError(f'unit={self.unit!r}: write "feature" or "sample"')

    def check(self, x: Tensor) -> None:
        """Refuse samples of another shape or kind, and values outside a declared range."""
        if x.shape[1:] != self.reference.shape[1:]:
            raise InputError(
                f"samples are {tuple(x.shape[1:])} and those of Marginal are {tuple(self.reference.shape[1:])}: "
                "give a reference of the same shape"
            )
        if x.is_floating_point() != self.reference.is_floating_point():
            raise InputError(f"samples are {x.dtype} and those of Marginal are {self.reference.dtype}: convert one")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        check_image_range(x, low, high, type(self).__name__)

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """Values of the reference."""
        source = self.reference
        places = source.shape[1:] if source.ndim != 4 else source.shape[2:]
        size = (len(x), *places) if self.unit == "feature" else (len(x),)
        index = torch.randint(len(source), size, generator=generator, device=generator.device).to(source.device)
        if self.unit == "feature":
            grid = torch.meshgrid(*(torch.arange(s, device=source.device) for s in places), indexing="ij")
            # Channels stay together: index a view that has them last.
            last = source.movedim(1, -1) if source.ndim == 4 else source
            drawn = last[(index, *grid)]
            drawn = drawn.movedim(-1, 1) if source.ndim == 4 else drawn
        else:
            drawn = source[index]
        return drawn.to(x.device, x.dtype)


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
        _check_range(self.low, self.high)
        if not 0 < self.sigma < math.inf:
            raise InputError(f"sigma={self.sigma}: write a number of pixels above 0, e.g. sigma=4")

    def check(self, x: Tensor) -> None:
        """Refuse what is no image of this range."""
        check_image_range(_images(x), self.low, self.high, type(self).__name__)

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """The blurred images; the generator is not used."""
        reach = math.ceil(3 * self.sigma)
        place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-((place / self.sigma) ** 2) / 2)
        kernel = kernel / kernel.sum()
        n, c, h, w = x.shape
        rows = F.pad(x.reshape(n * c, 1, h, w), (reach, reach, reach, reach), mode="replicate")
        rows = F.conv2d(F.conv2d(rows, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return rows.reshape(n, c, h, w).clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class TabularGaussian:
    """Rows of a Gaussian with the table's mean and spread.

    Attributes:
        mean: `(d,)`.
        std: `(d,)`, for independent columns; or
        cov: `(d, d)`.

    Does not guarantee: rows that could occur (integers, categories and skewed columns are not Gaussian), nor rows that
    fit the columns that were kept: the draw does not depend on them.

    >>> TabularGaussian([1.0, 2.0], std=[0.0, 0.0]).sample(torch.zeros(1, 2), torch.Generator())
    tensor([[1., 2.]])
    """

    mean: Tensor
    std: Tensor | None = None
    cov: Tensor | None = None

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.std is None) == (self.cov is None):
            raise InputError("write either std= or cov=, or TabularGaussian.of(x)")
        for name in ("mean", "std", "cov"):
            if getattr(self, name) is not None:
                value = to_tensor(getattr(self, name), name).double()
                check_finite(value, name)
                object.__setattr__(self, name, value)
        d = len(self.mean) if self.mean.ndim == 1 else -1
        spread, shape = (self.std, (d,)) if self.std is not None else (self.cov, (d, d))
        if spread is None or tuple(spread.shape) != shape:
            found = None if spread is None else tuple(spread.shape)
            raise InputError(f"mean {tuple(self.mean.shape)} and spread {found}: expected (d,) and (d,), or (d, d)")
        if self.std is not None and bool((self.std < 0).any()):
            raise InputError("std has negative entries: write standard deviations of at least 0")
        _ = self._factor  # refuses what is no covariance

    @classmethod
    def of(cls, x: Any) -> TabularGaussian:
        """Mean and covariance of rows `(n, d)`."""
        rows = to_tensor(x, "x").double()
        if rows.ndim != 2 or len(rows) < 2:
            raise InputError(f"x has shape {tuple(rows.shape)}: give at least two rows (n, d)")
        check_finite(rows, "x")
        return cls(rows.mean(0), cov=torch.cov(rows.T, correction=0).reshape(rows.shape[1], rows.shape[1]))

    @cached_property
    def _factor(self) -> Tensor:
        """F with F F^T = cov."""
        if self.cov is None:
            assert self.std is not None
            return torch.diag(self.std)
        scale = float(self.cov.abs().max())
        if not torch.allclose(self.cov, self.cov.T, rtol=0, atol=_ROUNDING * scale):
            raise InputError("cov is not symmetric: write a covariance matrix, e.g. torch.cov(x.T)")
        values, vectors = torch.linalg.eigh((self.cov + self.cov.T) / 2)
        if float(values[0]) < -_ROUNDING * scale:
            raise InputError(f"cov has the eigenvalue {float(values[0]):.3g}: a covariance has none below 0")
        return vectors * values.clamp(min=0).sqrt()

    def check(self, x: Tensor) -> None:
        """Refuse what is no table of these columns."""
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise InputError(f"x has shape {tuple(x.shape)}, TabularGaussian expects rows (n, {len(self.mean)})")

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """One row a sample."""
        shape = (len(x), len(self.mean))
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        drawn = self.mean.to(noise.device) + noise @ self._factor.T.to(noise.device)
        return drawn.to(x.device, x.dtype)


@dataclass(frozen=True)
class TokenMask:
    """One token id in every place, such as `tokenizer.mask_token_id`. Not random.

    Attributes:
        id: The token.

    Does not guarantee: that the model takes the token for "nothing"; one that was never trained with it may not.
    """

    id: int

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.id, bool) or not isinstance(self.id, int) or self.id < 0:
            raise InputError(f"id={self.id!r}: write a token id, e.g. tokenizer.mask_token_id")

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of token ids."""
        if x.is_floating_point() or x.ndim != 2:
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}: TokenMask expects token ids (n, tokens)")

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """The token everywhere; the generator is not used."""
        return torch.full_like(x, self.id)


REMOVALS: dict[str, type] = {
    kind.__name__: kind for kind in (ConstantColour, Marginal, Blur, TabularGaussian, TokenMask)
}
"""Removals that files can hold, by name."""


def check_image_range(x: Tensor, low: float, high: float, name: str) -> None:
    """Refuse values outside [low, high], and say how to bring them in.

    >>> check_image_range(torch.tensor([0.0, 255.0]), 0.0, 1.0, "Blur")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: values run from 0 to 255, and Blur declares 0 to 1: write x / 255, or declare Blur(..., \
low=0, high=255)
    """
    least, most = float(x.min()), float(x.max())
    room = 0.0 if math.isinf(high - low) else _ROUNDING * (high - low)
    if least >= low - room and most <= high + room:
        return
    hint = "x / 255" if least >= 0 and 2 < most <= 255 and high == 1 else f"x.clamp({low:g}, {high:g})"
    raise InputError(
        f"values run from {least:.4g} to {most:.4g}, and {name} declares {low:g} to {high:g}: write {hint}, "
        f"or declare {name}(..., low={least:.4g}, high={most:.4g})"
    )


def _images(x: Tensor) -> Tensor:
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
