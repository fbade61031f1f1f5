"""Maps that know nothing of the model, or everything of the truth: what every explanation must be compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.predictions import check_inputs, check_masks
from efface.core.doors import check_call

CONTROLS = ("random", "brightness", "centre", "edge")
"""Controls that need the images alone; `oracle_maps` needs the truth."""


def control_maps(name: str, x: Tensor, *, seed: int = 0) -> Tensor:
    """A control by name.

    Args:
        name: One of `CONTROLS`.
        x: Images `(n, channels, h, w)`.
        seed: Seed of `"random"`; the others do not use it.

    Returns:
        `(n, h, w)`, higher is more important.

    Raises:
        InputError: If there is no such control, or `x` is no batch of images.
    """
    check_call(control_maps, locals())
    if name not in CONTROLS:
        raise InputError(f"there is no control {name!r}: write one of {', '.join(CONTROLS)}, or call oracle_maps")
    if name == "random":
        return random_maps(x, seed=seed)
    return {"brightness": brightness_maps, "centre": centre_maps, "edge": edge_maps}[name](x)


def random_maps(x: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform numbers, `(n, h, w)`: what a map that knows nothing scores."""
    check_inputs(x, images=True)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(x), *x.shape[2:], generator=generator).to(x)


def brightness_maps(x: Tensor) -> Tensor:
    """Sum over channels, `(n, h, w)`. Where the truth is the brightest thing to see, this is nearly an oracle.

    >>> brightness_maps(torch.ones(1, 3, 2, 2))
    tensor([[[3., 3.],
             [3., 3.]]])
    """
    check_inputs(x, images=True)
    return x.detach().sum(1)


def centre_maps(x: Tensor) -> Tensor:
    """Minus the distance from the image's centre in pixels, `(n, h, w)`: photographs have their object there."""
    check_inputs(x, images=True)
    height, width = x.shape[2:]
    rows = torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    return -torch.hypot(rows[:, None], columns[None, :]).expand(len(x), -1, -1).contiguous()


def edge_maps(x: Tensor) -> Tensor:
    """Length of Sobel's gradient, summed over channels, `(n, h, w)`: many saliency maps are little more.

    The border is continued outwards, so that the edge of the image is none. Equivalent to the root of the sum of the
    squares of `scipy.ndimage.sobel` along both axes with `mode="nearest"`.
    """
    check_inputs(x, images=True)
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(x)
    kernels = torch.stack([across, across.T])[:, None]
    n, channels, height, width = x.shape
    padded = F.pad(x.detach(), (1, 1, 1, 1), mode="replicate").reshape(n * channels, 1, height + 2, width + 2)
    return F.conv2d(padded, kernels).norm(dim=1).view(n, channels, height, width).sum(1)


def oracle_maps(truth: Tensor, *, upsampling: int = 1) -> Tensor:
    """The truth itself, as well as masks of a coarser grid can say it, `(n, h, w)` in [0, 1].

    Each cell of `upsampling` x `upsampling` pixels holds the share of its pixels that are truth, and the grid is
    enlarged bilinearly, as a mask of that resolution is. This is what a grid mask can reach at best, or nearly.

    Args:
        truth: `(n, h, w)` bool.
        upsampling: Pixels a cell, along each side; it must divide height and width. 1 is the truth.

    Raises:
        InputError: If a mask is empty or not boolean, or the cells do not fit.
    """
    check_call(oracle_maps, locals())
    if truth.ndim != 3:
        raise InputError(f"truth has shape {tuple(truth.shape)}, expected (n, h, w)")
    check_masks(truth, len(truth))
    check_positive_int(upsampling, "upsampling")
    if truth.ndim != 3 or any(side % upsampling for side in truth.shape[1:]):
        raise InputError(
            f"upsampling={upsampling} and truth {tuple(truth.shape)}: expected (n, h, w) with h and w divisible by it"
        )
    maps = truth.float()[:, None]
    if upsampling > 1:
        maps = F.interpolate(F.avg_pool2d(maps, upsampling), scale_factor=upsampling, mode="bilinear")
    return maps[:, 0]
