"""What is tuned: a denoiser that has weights of its own where it is trained, and shares all others with the original.

The original is the teacher: it stays as it is, so that no second copy of the weights is kept, and a fit leaves the
pipeline alone whatever becomes of it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from efface._errors import InputError
from efface.core.weights import Add, Change, LowRank
from efface.diffusion.weights.passes import Passes, Texts


class Student:
    """What is trained: a denoiser, or what stands behind or before one.

    Attributes:
        module: The denoiser that is asked.
        trained: What is trained, in float32 at least, whatever the model's dtype.
    """

    module: nn.Module
    trained: nn.ParameterList

    def said(self, passes: Passes, latents: Tensor, t: Tensor, texts: Texts) -> Tensor:
        """Its predictions, through which gradients flow.

        Args:
            passes: How denoisers are asked.
            latents: (n, ...) as the denoiser is given them.
            t: (n,) timesteps.
            texts: n prompts, or these as encoded.
        """
        return passes(self.module, latents, t, texts)

    def values(self) -> list[Tensor]:
        """Copies of what is trained."""
        return [value.detach().clone() for value in self.trained]

    @contextmanager
    def holding(self, values: Sequence[Tensor]) -> Iterator[None]:
        """With other values of what is trained, for the length of a block."""
        own = self.values()
        try:
            self._put(values)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for place, value in zip(self.trained, values, strict=True):
            place.copy_(value)

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(value.numel() for value in self.trained)

    def checkpointed(self) -> None:
        """Keep no activations of blocks for the gradient: they are computed again, in a third more time.

        Raises:
            InputError: If the model does not offer that.
        """
        turn_on: Any = getattr(self.module, "enable_gradient_checkpointing", None)
        if turn_on is None or not getattr(self.module, "_supports_gradient_checkpointing", True):
            raise InputError(
                f"{type(self.module).__name__} has no gradient checkpointing: leave gradient_checkpointing out"
            )
        turn_on()


class Reweighted(Student, ABC):
    """A denoiser that has other weights."""

    @abstractmethod
    def changes(self, values: Sequence[Tensor]) -> dict[str, Change]:
        """Name of a parameter of the original -> its change, where `trained` has these values."""


class TunedWeights(Reweighted):
    """Weights and biases of some layers are trained.

    Args:
        denoiser: The original.
        layers: Paths of the layers.
    """

    def __init__(self, denoiser: nn.Module, layers: Sequence[str]) -> None:
        own = {path: denoiser.get_submodule(path) for path in layers}
        names = [f"{path}.{name}" for path, layer in own.items() for name, _ in layer.named_parameters(recurse=False)]
        # A parameter that two layers have is one parameter, under its first name.
        first = {id(denoiser.get_parameter(name)): name for name in reversed(names)}
        self.names = tuple(name for name in names if first[id(denoiser.get_parameter(name))] == name)
        self.before = [denoiser.get_parameter(name) for name in self.names]
        self.module = sharing(denoiser, apart=self.before)
        self.trained = nn.ParameterList(self.module.get_parameter(name) for name in self.names)

    def changes(self, values: Sequence[Tensor]) -> dict[str, Change]:
        """What is added to each weight; those that are what they were are left out."""
        return additions(self.names, self.before, values)


def additions(names: Sequence[str], before: Sequence[Tensor], after: Sequence[Tensor]) -> dict[str, Change]:
    """Name of a parameter -> what is added to it; those that are what they were are left out."""
    found: dict[str, Change] = {}
    for name, old, new in zip(names, before, after, strict=True):
        difference = (new.double() - old.detach().to(new).double()).to(new.dtype)
        if bool(difference.any()):
            found[name] = Add(difference)
    return found


class LowRankAdapters(Reweighted):
    """Each weight of some layers is `W + up down`, and the two factors are trained; `up` starts at zero.

    Args:
        denoiser: The original.
        layers: Paths of the layers.
        rank: Columns of `up`.
        source: Where `down` is drawn from: uniform up to `1 / sqrt(width)`, as torch draws a linear layer.
        spread: Draw it from a Gaussian of this standard deviation instead.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        layers: Sequence[str],
        rank: int,
        source: Generator,
        *,
        spread: float | None = None,
    ) -> None:
        self.module = sharing(denoiser)
        self.names = tuple(f"{path}.weight" for path in layers)
        factors: list[nn.Parameter] = []
        for path in layers:
            layer = self.module.get_submodule(path)
            adapter = _Adapter(layer.get_parameter("weight"), rank, source, spread)
            parametrize.register_parametrization(layer, "weight", adapter, unsafe=True)
            factors += [adapter.up, adapter.down]
        self.trained = nn.ParameterList(factors)

    def changes(self, values: Sequence[Tensor]) -> dict[str, Change]:
        """The factors."""
        pairs = zip(self.names, values[::2], values[1::2], strict=True)
        return {name: LowRank(up, down) for name, up, down in pairs if bool(up.any())}


class _Adapter(nn.Module):
    """`W -> W + up down`."""

    def __init__(self, weight: Tensor, rank: int, source: Generator, spread: float | None) -> None:
        super().__init__()
        flat = weight.flatten(1)
        kept = {"dtype": at_least_float32(weight.dtype), "device": weight.device}
        if spread is None:
            drawn = (torch.rand(rank, flat.shape[1], generator=source) * 2 - 1) / flat.shape[1] ** 0.5
        else:
            drawn = torch.randn(rank, flat.shape[1], generator=source) * spread
        self.up = nn.Parameter(torch.zeros(flat.shape[0], rank, **kept))
        self.down = nn.Parameter(drawn.to(**kept))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with the product added."""
        return weight + (self.up @ self.down).view_as(weight).to(weight.dtype)


def sharing(denoiser: nn.Module, apart: Sequence[Tensor] = ()) -> nn.Module:
    """A copy of a model whose tensors are the model's own, frozen, but for some, which are copied and trained."""
    own = {id(value) for value in apart}
    memo: dict[int, Any] = {}
    for value in (*denoiser.parameters(), *denoiser.buffers()):
        shared = value.detach().clone() if value.is_inference() else value.detach()
        if id(value) in own:
            memo[id(value)] = nn.Parameter(
                value.detach().to(at_least_float32(value.dtype), copy=True), requires_grad=True
            )
        elif isinstance(value, nn.Parameter):
            memo[id(value)] = nn.Parameter(shared, requires_grad=False)
        else:
            memo[id(value)] = shared
    return copy.deepcopy(denoiser, memo).eval()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Training in half precision loses what is small: float32, unless it is more."""
    return torch.promote_types(dtype, torch.float32)
