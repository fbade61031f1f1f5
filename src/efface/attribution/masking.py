"""What mask optimisation stands on: inputs as the model wants them, a model held still, and draws by sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_finite, to_tensor
from efface.attribution.maskers import Masker, Model
from efface.attribution.predictions import (
    Outputs,
    OutputsWarning,
    answer,
    check_model,
    exact,
    parameter_dtype,
    parameters_of,
    to_probabilities,
)
from efface.attribution.removal import Removal
from efface.core.doors import is_applied

ROUNDING = 1e-6
"""Differences of probability below this are taken for rounding, and have no gradient."""

_PROBED = 32


def prepare(model: Any, x: Any, removal: Removal) -> Tensor:
    """Samples as a tensor that the model can read; the model, samples and removal are checked.

    Args:
        model: A module in eval mode, or any callable.
        x: Samples `(n, ...)`: floats, or token ids.
        removal: Its `check`, if it has one, is asked.

    Returns:
        `x` on its own device; floats in the dtype of the model's parameters, ids as int64.

    Raises:
        InputError: If the model is in training mode or not callable, or the samples are empty or not finite, or
            outside what the removal declares.
    """
    if isinstance(model, nn.Module):
        check_model(model)
    elif not is_applied(model):
        raise InputError(f"the model is a {type(model).__name__}: give an nn.Module or a function of samples")
    if isinstance(x, (tuple, list, dict)):
        raise InputError(f"x is a {type(x).__name__}: give one tensor of samples (n, ...); labels are never used")
    x = to_tensor(x, "x")
    if x.ndim < 2 or not x.numel():
        raise InputError(
            f"x has shape {tuple(x.shape)}: expected samples (n, ...), at least one; for one write x[None]"
        )
    if isinstance(removal, type) or not isinstance(removal, Removal):
        raise InputError(f"removal={shown(removal)}: write e.g. removal=ConstantColour.of(images)")
    check = getattr(removal, "check", None)
    if not x.is_floating_point():
        if check is not None:
            check(x)
        return x.long()
    # By parts: of all at once, the test would take as much memory again as the data.
    if not all(bool(torch.isfinite(part).all()) for part in x.split(_PROBED)):
        check_finite(x.flatten(1), "x")
    if check is not None:
        check(x)
    return x.to(parameter_dtype(model))


@contextmanager
def held_still(model: Any) -> Iterator[None]:
    """No parameter requires a gradient within the block; the flags are put back however it ends."""
    wanted = [p for p in parameters_of(model) if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def is_random(removal: Removal) -> bool:
    """Whether draws differ; where they do not, one is enough."""
    return bool(getattr(removal, "random", True))


def draw(removal: Removal, x: Tensor, sources: Sequence[Generator]) -> Tensor:
    """One draw of q for each sample from its own source, so that other samples of the batch do not matter.

    Raises:
        InputError: If the removal gives another shape or values that are not finite.
    """
    q = torch.cat([removal.sample(x[i : i + 1], source) for i, source in enumerate(sources)])
    return checked_draw(q, x)


def checked_draw(q: Tensor, x: Tensor) -> Tensor:
    """`q` if it can stand in the place of `x`."""
    if q.shape != x.shape or q.dtype != x.dtype:
        raise InputError(
            f"the removal gives {q.dtype} {tuple(q.shape)} for samples {x.dtype} {tuple(x.shape)}: return the same"
        )
    if q.is_floating_point():
        check_finite(q.flatten(1), "what the removal gives")
    return q


def clean_outputs(model: Model, x: Tensor, outputs: Outputs) -> Tensor:
    """Probabilities of unmasked samples, `(n, classes)`, once they are what `outputs` says."""
    with torch.no_grad():
        return to_probabilities(answer(model, x), len(x), outputs).float()


def as_probabilities(values: Tensor, outputs: Outputs) -> Tensor:
    """Outputs as probabilities in float32, where what `outputs` says was checked before."""
    return (exact(values).softmax(1) if outputs == "logits" else values).float()


def masked_outputs(model: Model, masker: Masker, x: Tensor, mask: Tensor, q: Tensor) -> Tensor:
    """What the model says of masked samples, `(n, classes)`.

    Args:
        model: The model.
        masker: What cells are, bound to these samples.
        x: Samples `(n, ...)`.
        mask: Boolean or in [0, 1], `(n, *cells)`, on any device; it takes the dtype of the samples, so that the
            masked ones keep theirs.
        q: What stands elsewhere.
    """
    return masker.outputs(model, x, mask.to(x.device, x.dtype if x.is_floating_point() else torch.float32), q)


def distance(p: Tensor, other: Tensor) -> Tensor:
    """`|p - p'|_1` of each row, `(n,)`; differences below `ROUNDING` count as none.

    Where two outputs agree but for rounding, the sign of the difference is noise, and so would be the gradient.
    """
    return F.softshrink(p - other, ROUNDING).abs().sum(1)


def check_responds(model: Model, x: Tensor, masker: Masker, q: Tensor, outputs: Outputs) -> None:
    """Refuse a model that says the same of every sample, and of nothing at all in its place.

    Warns with `OutputsWarning` of logits that look like scores of a sigmoid.

    Raises:
        InputError: If so: there is nothing to attribute.
    """
    x, q = x[:_PROBED], q[:_PROBED]
    bound = masker.on(x)
    with torch.no_grad():
        nothing = torch.zeros(len(x), *bound.shape(x), device=x.device)
        said = torch.cat([model(x), masked_outputs(model, bound, x, nothing, q)]).float()
    spread = float((said.amax(0) - said.amin(0)).max())
    if spread <= ROUNDING * max(1.0, float(said.abs().max())):
        raise InputError(
            f"the model is constant: it gives the same output for {len(x)} samples and for what stands in their place; "
            "give a trained model, or a removal that changes the samples"
        )
    if outputs == "logits" and said.numel() >= _PROBED and float(said.min()) >= 0 and float(said.max()) <= 1:
        warnings.warn(
            f"all outputs of {len(x)} samples lie in [0, 1], as those of a sigmoid for each class do; as logits they "
            f"give no class more than {float(said.softmax(1).max()):.2f}: give the values before the sigmoid, or write "
            "outputs='probabilities' behind a softmax",
            OutputsWarning,
            stacklevel=6,
        )
