"""The full-gradient decomposition of a ReLU network, and the simple saliency map that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface.attribution.predictions import check_gradient, check_labels, check_model
from efface.core.doors import check_call
from efface.core.hooks import edit_call
from efface.core.inference import outside_inference

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SMALL = 1e-12


@dataclass(frozen=True)
class FullGradient:
    """An output written as a sum over the input and over biases.

    Attributes:
        output: The output explained, `(n,)`.
        input_term: grad_x f . x, `(n,)`.
        bias_term: Sum over layers of grad_b f . b, `(n,)`.
        gap: output - input_term - bias_term, `(n,)`: zero up to rounding where the decomposition holds.
    """

    output: Tensor
    input_term: Tensor
    bias_term: Tensor

    __repr__ = brief

    @property
    def gap(self) -> Tensor:
        """What the two terms leave of the output, `(n,)`."""
        return self.output - self.input_term - self.bias_term


@outside_inference
def full_gradient(model: nn.Module, x: Tensor, target: Tensor) -> FullGradient:
    """The decomposition f(x) = grad_x f . x + sum_l grad_{b_l} f . b_l.

    b_l is the bias of a convolution or linear layer, and the implicit bias of batch normalisation in eval mode,
    beta - gamma mean / sqrt(var + eps). Biases of other layers are not looked for.

    Args:
        model: In eval mode; `(n, ...)` to `(n, classes)`.
        x: Inputs `(n, ...)`.
        target: Class whose output is explained, `(n,)`.

    Raises:
        InputError: If the model is in training mode, or the target is not one class an input.

    Does not guarantee: a gap of zero unless all else in the model is positively homogeneous (ReLU, leaky ReLU, pooling,
    sums); a softmax at the end, GELU or layer normalisation break it. Read `gap`.

    Source: "Full-Gradient Representation for Neural Network Visualization", arXiv:1905.00780, equation 4.
    """
    check_call(full_gradient, locals())
    check_model(model)
    check_labels(target, len(x), "target")
    layers = [m for m in model.modules() if isinstance(m, (*_CONVOLUTION, *_BATCH_NORM, nn.Linear))]
    output, slopes, inputs, calls = _slopes(model, layers, x, target)
    terms = [(slope * _bias(layer, slope)).flatten(1).sum(1) for (layer, _), slope in zip(calls, slopes, strict=True)]
    return FullGradient(output, (inputs * x).flatten(1).sum(1), sum(terms, torch.zeros_like(output)))


def simple_fullgrad(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """psi(grad_x f * x) + sum over layers and channels of psi(grad_{b_l} f), `(n, h, w)`.

    psi takes the absolute value, rescales each image's to [0, 1] over channels and places, and enlarges bilinearly.
    Layers are the convolutions with a bias and the batch normalisations whose output is a map `(n, channels, h, w)`.
    "Simple": the gradients with respect to the biases are not multiplied by the biases (arXiv:1905.00780 does, in
    equation 8; its authors' code offers both).

    Args:
        model: In eval mode, a convolutional network.
        x: Images `(n, channels, h, w)`.
        target: Class whose output is explained, `(n,)`.

    Raises:
        InputError: If no layer of the model has a spatial bias.
    """
    check_call(simple_fullgrad, locals())
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) or _biased(m)]
    _, slopes, inputs, _ = _slopes(model, layers, x, target)
    slopes = [slope for slope in slopes if slope.ndim == 4]
    if not slopes:
        raise InputError(
            "simple-fullgrad needs convolutions with a bias or batch normalisation, and the model runs none: "
            "choose another method"
        )
    size = (x.shape[2], x.shape[3])
    return sum((_psi(slope, size) for slope in slopes), _psi(inputs * x, size))


def _psi(values: Tensor, size: tuple[int, int]) -> Tensor:
    values = values.abs()
    low, high = (v[:, None, None, None] for v in (values.flatten(1).amin(1), values.flatten(1).amax(1)))
    scaled = (values - low) / (high - low).clamp_min(_SMALL)
    return F.interpolate(scaled, size=size, mode="bilinear", align_corners=False).sum(1)


def _biased(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.bias is not None


Calls = list[tuple[nn.Module, Tensor]]


def _slopes(
    model: nn.Module, layers: Sequence[nn.Module], x: Tensor, target: Tensor
) -> tuple[Tensor, list[Tensor], Tensor, Calls]:
    """Output, its gradients by each layer's output and by the input, and the calls in which layers ran."""
    with torch.enable_grad(), _outputs_of(layers) as calls:
        leaf = x.detach().requires_grad_()
        output = model(leaf).gather(1, target[:, None])[:, 0]
        check_gradient(output)
        wanted = [leaf, *(value for _, value in calls)]
        found = torch.autograd.grad(output.sum(), wanted, allow_unused=True)
    inputs, *slopes = (torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True))
    return output.detach(), slopes, inputs, calls


@contextmanager
def _outputs_of(layers: Sequence[nn.Module]) -> Iterator[Calls]:
    calls: Calls = []

    def keep(module: nn.Module, _args: object, _kwargs: object, output: Tensor) -> Tensor:
        calls.append((module, output))
        return output.clone()  # a ReLU in place would otherwise change what was kept

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(edit_call(layer, "output", keep))
        yield calls


def _bias(layer: nn.Module, like: Tensor) -> Tensor:
    """The bias that a layer adds to its output, in a shape that multiplies with it."""
    value = layer.bias
    if isinstance(layer, _BATCH_NORM) and layer.running_mean is not None and layer.running_var is not None:
        shift = layer.running_mean / (layer.running_var + layer.eps).sqrt()
        value = -shift if layer.weight is None else layer.bias - layer.weight * shift
    if not isinstance(value, Tensor):
        return torch.zeros((), dtype=like.dtype, device=like.device)
    value = value.detach()
    return value if isinstance(layer, nn.Linear) else value.view(-1, *[1] * (like.ndim - 2))
