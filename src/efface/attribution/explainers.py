"""The methods of captum, each as a function of model, images and classes; `efface.attribution.baselines` calls them.

Every function returns what the method gives, `(n, channels, h, w)` or `(n, 1, h, w)`, and puts about n images to the
model at once, whatever the number of steps, samples or windows. Nothing here puts back what captum changes: that is the
caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface._lazy import require
from efface._validate import check_positive_int
from efface.attribution.predictions import as_read_by
from efface.core.hooks import look

_LEAST = 1e-10


def _captum() -> Any:
    return require("captum.attr", extra="attribution")


def gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Gradient of the class's output by each value of the image (arXiv:1312.6034)."""
    return _captum().Saliency(model).attribute(x, target=target, abs=False)


def input_times_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Input times gradient, x * grad_x f (arXiv:1605.01713, section 3.2)."""
    return _captum().InputXGradient(model).attribute(x, target=target)


def smoothgrad(model: nn.Module, x: Tensor, target: Tensor, *, samples: int = 16, noise: float = 0.15) -> Tensor:
    """Mean over `samples` of the gradient at x + noise * N(0, 1) (arXiv:1706.03825, section 3)."""
    check_positive_int(samples, "samples")
    attr = _captum()
    tunnel = attr.NoiseTunnel(attr.Saliency(_in_its_dtype(model)))
    draws = {"nt_type": "smoothgrad", "nt_samples": samples, "nt_samples_batch_size": 1, "stdevs": noise}
    return tunnel.attribute(x, target=target, abs=False, **draws)


def integrated_gradients(
    model: nn.Module, x: Tensor, target: Tensor, *, steps: int = 32, baseline: Tensor | float = 0.0
) -> Tensor:
    """(x - x') times the mean gradient on the way from x' to x (arXiv:1703.01365, equation 1)."""
    check_positive_int(steps, "steps")
    start = _start(baseline, x)
    return (
        _captum()
        .IntegratedGradients(model)
        .attribute(x, start, target=target, n_steps=steps, internal_batch_size=len(x))
    )


def gradcam(model: nn.Module, x: Tensor, target: Tensor, *, layer: nn.Module | str | None = None) -> Tensor:
    """Sum of a layer's maps, each weighted by its mean gradient, not below zero (arXiv:1610.02391, equation 2)."""
    found = _layer(model, x, layer)
    maps = _captum().LayerGradCam(model, found).attribute(x, target=target, relu_attributions=True)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        raise InputError("gradcam needs a layer whose output is maps (n, channels, h, w): write layer='name of one'")
    return F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)


def occlusion(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    window: int = 4,
    stride: int = 2,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """By how much the output falls when a window is covered, mean over the windows of a pixel (arXiv:1311.2901)."""
    check_positive_int(window, "window")
    check_positive_int(stride, "stride")
    if window > min(x.shape[2:]) or stride > window:
        raise InputError(
            f"window={window} and stride={stride} on images {tuple(x.shape[2:])}: the window must fit, and the stride "
            "may not pass over pixels"
        )
    channels = x.shape[1]
    shape, step = (channels, window, window), (channels, stride, stride)
    start = _start(baseline, x)
    # One row of baselines for each image: captum takes a number, or as many rows as there are inputs.
    moves = {"sliding_window_shapes": shape, "strides": step}
    found = _captum().Occlusion(model).attribute(x, target=target, baselines=start.expand_as(x).contiguous(), **moves)
    return found[:, :1]  # all channels are covered at once, so each holds the same value


def deeplift(model: nn.Module, x: Tensor, target: Tensor, *, baseline: Tensor | float = 0.0) -> Tensor:
    """Contributions of differences from a baseline by the rescale rule (arXiv:1704.02685, section 3.5.1)."""
    # Differences that the dtype cannot tell from none are not divided by.
    rule = _captum().DeepLift(model, eps=max(_LEAST, torch.finfo(x.dtype).tiny))
    return rule.attribute(x, _start(baseline, x).expand_as(x).contiguous(), target=target)


def gradient_shap(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 16,
    noise: float = 0.0,
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """Mean over `samples` of (x - x') grad f at a random place between x' and x (arXiv:1705.07874)."""
    check_positive_int(samples, "samples")
    shap, start = _captum().GradientShap(_in_its_dtype(model)), _start(baseline, x)
    size = max(1, len(x) // samples)
    parts = zip(x.split(size), target.split(size), strict=True)
    return torch.cat([shap.attribute(p, start, target=t, n_samples=samples, stdevs=noise) for p, t in parts])


def _in_its_dtype(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model, for what captum draws in float32 whatever the images are."""
    return lambda x: model(as_read_by(model, x))


def _start(baseline: Tensor | float, x: Tensor) -> Tensor:
    """One image to start from, `(1, channels, h, w)`."""
    value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    if value.ndim and tuple(value.shape) != tuple(x.shape[1:]):
        raise InputError(
            f"baseline has shape {tuple(value.shape)}: expected a number or one image {tuple(x.shape[1:])}"
        )
    if not bool(torch.isfinite(value).all()):
        raise InputError("baseline is not finite: write a number, e.g. 0.0, or an image, e.g. x.mean(0)")
    return value.expand(1, *x.shape[1:]).contiguous()


def _layer(model: nn.Module, x: Tensor, layer: nn.Module | str | None) -> nn.Module:
    if isinstance(layer, str):
        modules = dict(model.named_modules())
        if layer not in modules:
            raise InputError(f"the model has no module {layer!r}: its modules are {', '.join(filter(None, modules))}")
        return modules[layer]
    return _last_convolution(model, x) if layer is None else layer


@torch.no_grad()
def _last_convolution(model: nn.Module, x: Tensor) -> nn.Module:
    ran: list[nn.Module] = []
    with ExitStack() as stack:
        for module in model.modules():
            # One inside an adapter gives a part of what its layer gives.
            if isinstance(module, nn.Conv2d) or isinstance(getattr(module, "base_layer", None), nn.Conv2d):
                stack.callback(look(module, lambda module, *_: ran.append(module)))
        model(x[:1])
    if not ran:
        raise InputError("the model runs no nn.Conv2d: write layer=, the module whose maps gradcam should weigh")
    return ran[-1]
