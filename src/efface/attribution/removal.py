"""What stands where something is removed: the distribution Q of the explanation, as one object.

The same object serves the masks, the tuning, the explanation and the audit, so that they speak of one Q. Those that
only images have are in `removal_images`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Generator, Tensor

from efface._errors import InputError
from efface._text import brief, shown
from efface._validate import check_finite, to_tensor
from efface.attribution.removal_images import check_image_range
from efface.core.doors import check_call
from efface.core.saved_types import saved, saved_base

Unit = Literal["feature", "sample"]
_ROUNDING = 1e-6


@saved_base
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


@saved
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

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", to_tensor(self.reference, "reference"))
        if self.reference.ndim < 2 or not self.reference.numel():
            raise InputError(f"reference has shape {tuple(self.reference.shape)}: give samples (r, ...), at least one")
        if self.reference.is_floating_point():
            check_finite(self.reference.flatten(1), "reference")
        if not isinstance(self.unit, str) or self.unit not in get_args(Unit):
            raise InputError(f'unit={shown(self.unit)}: write "feature" or "sample"')

    def check(self, x: Tensor) -> None:
        """Refuse samples of another shape or kind, and values outside a declared range."""
        check_call(Marginal.check, locals())
        self._check_shape(x)
        if x.is_floating_point() != self.reference.is_floating_point():
            raise InputError(f"samples are {x.dtype} and those of Marginal are {self.reference.dtype}: convert one")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        check_image_range(x, low, high, type(self).__name__)

    def _check_shape(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[1:] != self.reference.shape[1:]:
            raise InputError(
                f"samples are {tuple(x.shape[1:])} and those of Marginal are {tuple(self.reference.shape[1:])}: "
                "give a reference of the same shape"
            )

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """Values of the reference."""
        check_call(Marginal.sample, locals())
        self._check_shape(x)
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


@saved
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

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.mean is None or (self.std is None) == (self.cov is None):
            raise InputError("write mean, and either std= or cov=, or TabularGaussian.of(x)")
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
        check_call(TabularGaussian.check, locals())
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise InputError(f"x has shape {tuple(x.shape)}, TabularGaussian expects rows (n, {len(self.mean)})")

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """One row a sample."""
        check_call(TabularGaussian.sample, locals())
        self.check(x)
        shape = (len(x), len(self.mean))
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        drawn = self.mean.to(noise.device) + noise @ self._factor.T.to(noise.device)
        return drawn.to(x.device, x.dtype)


@saved
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
            raise InputError(f"id={shown(self.id)}: write a token id, e.g. tokenizer.mask_token_id")

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of token ids."""
        check_call(TokenMask.check, locals())
        if x.is_floating_point() or x.ndim != 2:
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}: TokenMask expects token ids (n, tokens)")

    def sample(self, x: Tensor, generator: Generator) -> Tensor:
        """The token everywhere; the generator is not used."""
        check_call(TokenMask.sample, locals())
        return torch.full_like(x, self.id)
