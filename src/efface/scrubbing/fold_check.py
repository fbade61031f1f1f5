"""Whether a folded model gives what the hooked one gives, and what is saved what was folded: by running both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.core.edits import started
from efface.core.site import Site
from efface.core.subjects import device_of
from efface.core.watching import tensors_in
from efface.core.weights import WeightDelta
from efface.core.writing import write
from efface.scrubbing.examples import passes
from efface.scrubbing.forward import at_rest, edited, uncached

_FAR = 1e-3
"""Of the largest number that a model gives; what is further away is no rounding."""


def check_fold(
    model: nn.Module, erasers: Mapping[Site, Any], delta: WeightDelta, inputs: Mapping[str, Any] | None
) -> None:
    """Refuse a change of weights with which a model gives something else than with the erasers on it.

    Not asked of models in half precision, whose rounding is too large to tell.

    Raises:
        InputError: If it does.
    """
    if not _is_precise(model):
        return
    tried = passes(model, inputs)
    with at_rest(model):
        with edited(model, {site: started(eraser) for site, eraser in erasers.items()}):
            expected = [_run(model, each) for each in tried]
        undo = write(model, delta, name="a fold that is tried")
        try:
            found = [_run(model, each) for each in tried]
        finally:
            undo()
    far = max(_distance(a, b) for a, b in zip(found, expected, strict=True))
    if not far < _FAR:
        raise InputError(
            f"folded into its weights, the erasers would make {type(model).__name__} give something else than they do "
            f"by hooks (by {far:.1g} of its largest output), so it reads its layers, or its config, in a way that was "
            "not seen: leave them to hooks, or fold fewer sites, by scrubber.only(...)"
        )


def check_loaded(model: nn.Module, folder: str | os.PathLike[str], inputs: Mapping[str, Any] | None) -> None:
    """Refuse saved files from which another model is loaded.

    Raises:
        InputError: If it gives something else.
    """
    kind: Any = type(model)
    dtype = next(model.parameters()).dtype
    again: nn.Module = kind.from_pretrained(folder, dtype=dtype).to(device_of(model))
    tried = passes(model, inputs)
    with at_rest(model), at_rest(again):
        far = max(_distance(_run(again, each), _run(model, each)) for each in tried)
    if not far < _FAR:
        raise InputError(
            f"saved and loaded again, this {kind.__name__} gives something else (by {far:.1g} of its largest output): "
            "save the scrubber itself, scrubber.save(folder), and put it on what is loaded"
        )


def _is_precise(model: nn.Module) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())


def _run(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    return [x.detach().clone() for x in _floats(model(**uncached(model, inputs)))]


def _floats(output: Any) -> Iterator[Tensor]:
    return (x for x in tensors_in(output) if x.is_floating_point() and x.numel())


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest distance of two outputs, of the largest number in each; not a number where either is not finite."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        return float("inf")
    far = [float((a - b).abs().max()) / max(float(b.abs().max()), 1e-30) for a, b in zip(found, expected, strict=True)]
    return max(far, default=0.0)
