"""Feature attributions to compare with, as maps `(n, h, w)`: the usual ones through captum, SimpleFullGrad by us.

What is explained is the output of one class, a logit or a probability as the model gives it. The model is left as it
was: parameters, buffers, gradients, training flags and hooks.

Channels become one value a pixel in one of three ways (`reduce`): `"sum"` adds them with their signs, so that evidence
against the class is negative; `"absolute"` adds absolute values; `"size"` is the absolute value of the sum. Maps of
gradients are `"absolute"` by default: a signed one says how an output comes about, and ranks a pixel that speaks
against the class below one that says nothing, which costs it most of its agreement with ground truth. To check
completeness, write `reduce="sum"`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._interrupts import insisted
from efface._progress import progress
from efface._validate import check_positive_int
from efface.attribution import explainers as by
from efface.attribution.fullgrad import simple_fullgrad
from efface.attribution.predictions import (
    Outputs,
    as_read_by,
    check_classes,
    check_inputs,
    check_model,
    exact,
    explaining,
    predict,
)
from efface.core.doors import check_call
from efface.core.inference import outside_inference

Reduce = Literal["sum", "absolute", "size"]
Explain = Callable[..., Tensor]


@dataclass(frozen=True)
class Baseline:
    """A method, and what it does.

    Attributes:
        explain: `(model, x, target, **options) -> Tensor` of the shape of x, or `(n, 1, h, w)`.
        reduce: How its channels become one, unless the caller says otherwise.
        summary: One line.
        paper: Where it comes from.
    """

    explain: Explain
    reduce: Reduce
    summary: str
    paper: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options: what `explain` takes by keyword alone."""
        parameters = inspect.signature(self.explain).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


@outside_inference
def attribute(
    method: str,
    model: nn.Module,
    x: Tensor,
    target: Tensor | int | None = None,
    *,
    reduce: Reduce | None = None,
    outputs: Outputs = "logits",
    batch_size: int = 64,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Maps of one of `BASELINES`, `(n, h, w)`, higher is more important; in float32 at least.

    Args:
        method: One of `BASELINES`.
        model: In eval mode; images `(n, channels, h, w)` to `(n, classes)`.
        x: Images `(n, channels, h, w)`.
        target: Class to explain, one for all or `(n,)`; if not given, the class predicted.
        reduce: How channels become one value (see the module); by default as `BASELINES[method].reduce`.
        outputs: Whether the model returns `"logits"` or `"probabilities"`; that is what is explained.
        batch_size: Images at a time; deeplift puts each to the model with its baseline, gradient-shap puts all samples
            of an image at once.
        seed: Seed of the methods that draw: `smoothgrad` and `gradient-shap`. Their draws also depend on `batch_size`.
        options: Of the method: `samples` and `noise` (smoothgrad, gradient-shap; noise in units of x), `steps`
            (integrated-gradients), `baseline` (a number, or a tensor of the shape of one image; integrated-gradients,
            deeplift, gradient-shap, occlusion; 0, black, by default), `window` and `stride` in pixels (occlusion),
            `layer` (gradcam: a module or its dotted name; the last convolution that runs by default).

    Raises:
        InputError: If there is no such method or option, shapes are wrong, values are not finite, the model is in
            training mode, the method cannot explain it, or no finite map came out.
        MissingExtraError: If captum is not installed (`simple-fullgrad` does not need it).

    Does not guarantee: that a map says what the model uses: measure it, `efface.attribution.metrics` and `curves`.
    `deeplift` sees only activations that are modules, each used once. Differences of outputs below the rounding of a
    model in half precision are lost: `occlusion` lives on these.

    Example:
        maps = attribute("integrated-gradients", model, images, steps=64)
    """
    check_call(attribute, locals())
    chosen = _method(method, options)
    if reduce not in (None, *get_args(Reduce)):
        raise InputError(f"reduce={reduce!r}: write 'sum', 'absolute' or 'size'")
    check_inputs(x, images=True)
    check_model(model)
    check_positive_int(batch_size, "batch_size")
    wanted = _targets(target, predict(model, x, outputs=outputs, batch_size=batch_size))
    parts = []
    with _left_alone(model, seed), explaining(method), progress(method, len(x), unit="images") as bar:
        for images, classes in zip(x.detach().split(batch_size), wanted.split(batch_size), strict=True):
            found = exact(chosen.explain(model, as_read_by(model, images), classes, **options).detach())
            parts.append(_reduced(found, reduce or chosen.reduce).to(x.device))
            bar.update(len(images))
    maps = torch.cat(parts)
    if not bool(torch.isfinite(maps).all()):
        raise InputError(f"{method} gave maps that are not finite: the model's gradients are NaN or infinite")
    return maps


def _method(method: str, options: Mapping[str, Any]) -> Baseline:
    if method not in BASELINES:
        raise InputError(f"there is no baseline {method!r}: write one of {', '.join(BASELINES)}")
    chosen = BASELINES[method]
    strange = sorted(set(options) - set(chosen.options))
    if strange:
        known = ", ".join(chosen.options) or "none"
        raise InputError(f"{method} has no option {', '.join(strange)}: its options are {known}")
    return chosen


def _targets(target: Tensor | int | None, said: Tensor) -> Tensor:
    if target is None:
        return said.argmax(1)
    if isinstance(target, int):
        target = torch.full((len(said),), target)
    check_classes(target, len(said), said.shape[1], "target")
    return target.long().to(said.device)


def _reduced(maps: Tensor, reduce: Reduce) -> Tensor:
    if reduce == "sum":
        return maps.sum(1)
    return maps.abs().sum(1) if reduce == "absolute" else maps.sum(1).abs()


@contextmanager
def _left_alone(model: nn.Module, seed: int) -> Iterator[None]:
    """Chance by seed, then put back; gradients of parameters and their flags put back; captum's notices silenced."""
    kept = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    devices = sorted({p.device.index for p, *_ in kept if p.device.type == "cuda"})
    with insisted(), torch.random.fork_rng(devices=devices), warnings.catch_warnings(), torch.enable_grad():
        warnings.filterwarnings("ignore", message="Setting forward, backward hooks and attributes on non-linear")
        warnings.filterwarnings("ignore", message="Input Tensor .* did not already require gradients")
        warnings.filterwarnings("ignore", message="Required gradients has not been set")
        torch.manual_seed(seed)
        drawn = np.random.get_state()  # noqa: NPY002 - captum's GradientSHAP draws from numpy's global generator
        np.random.seed(seed)  # noqa: NPY002
        for parameter, *_ in kept:
            parameter.grad = None
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, slope, needed in kept:
                parameter.requires_grad_(needed)
                parameter.grad = slope
            np.random.set_state(drawn)  # noqa: NPY002


BASELINES: dict[str, Baseline] = {
    "gradient": Baseline(by.gradient, "absolute", "gradient of the class's output", "arXiv:1312.6034"),
    "input-x-gradient": Baseline(by.input_times_gradient, "absolute", "input times gradient", "arXiv:1605.01713"),
    "smoothgrad": Baseline(by.smoothgrad, "absolute", "mean gradient under noise", "arXiv:1706.03825"),
    "integrated-gradients": Baseline(
        by.integrated_gradients, "absolute", "gradients along the way from a baseline", "arXiv:1703.01365"
    ),
    "gradcam": Baseline(by.gradcam, "sum", "maps of a layer weighted by mean gradients", "arXiv:1610.02391"),
    "occlusion": Baseline(by.occlusion, "sum", "drop of the output under a patch", "arXiv:1311.2901"),
    "deeplift": Baseline(by.deeplift, "absolute", "differences from a baseline, layer by layer", "arXiv:1704.02685"),
    "gradient-shap": Baseline(
        by.gradient_shap, "absolute", "gradients at random places from a baseline to x", "arXiv:1705.07874"
    ),
    "simple-fullgrad": Baseline(
        lambda model, x, target: simple_fullgrad(model, x, target)[:, None],
        "sum",
        "gradients by the input and by biases of all layers",
        "arXiv:1905.00780",
    ),
}
"""The baselines by name."""
