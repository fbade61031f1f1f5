"""Distances between images and agreement with captions, in the features of a judge and of the contrastive pair.

The published metrics stand on networks that are not at hand here; these have the same formulas on features of this
world. Each comes with n, seed and interval. Frechet and kernel distances are torchmetrics' own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface._lazy import require
from efface.stats.intervals import bootstrap_interval
from efface_worlds.shapes.judge import Judge, check_images

_Z = 1.959963984540054
_HALVES = 60
_RESAMPLES = 1000
_LEAST = 20


@dataclass(frozen=True)
class ImageMetric:
    """A number with its interval.

    Attributes:
        name: What it is.
        value: The estimate.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Number of images.
        seed: Of the resampling.
        method: How the interval was made.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    seed: int
    method: str


class _Given(nn.Module):
    """Stands where torchmetrics expects a network: the features have been computed already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def image_metrics(
    images: Tensor, reference: Tensor, *, judge: Judge, seed: int = 0, paired: bool = False
) -> dict[str, ImageMetric]:
    """Distances of images from reference images.

    Args:
        images: `(n, 3, 32, 32)` in [0, 1].
        reference: `(m, 3, 32, 32)` in [0, 1].
        judge: Whose features count.
        seed: Of the resampling.
        paired: Whether image i belongs to reference i; then `"lpips"` is among the results.

    Returns:
        `"fid"`, `"kid"` and, if paired, `"lpips"`.

    Raises:
        InputError: If there are fewer than 20 images, or paired images differ in number.
        MissingExtraError: If torchmetrics is not installed.
    """
    if min(len(images), len(reference)) < _LEAST:
        raise InputError(f"{len(images)} images, {len(reference)} references: expected at least {_LEAST} of each")
    x, y = judge.features(images), judge.features(reference)
    results = {
        "fid": _halved("fid", frechet_distance, x, y, seed),
        "kid": _halved("kid", kernel_distance, x, y, seed),
    }
    if paired:
        results["lpips"] = mean_metric("lpips", perceptual_distance(images, reference, judge=judge), seed)
    return results


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of two sets of features, `(n, d)` and `(m, d)` (Heusel et al., arXiv:1706.08500).

    Does not guarantee: freedom from bias, which depends on n; compare at equal n.
    """
    metric = _torchmetrics("fid").FrechetInceptionDistance(feature=_Given(x.shape[1]))
    metric.update(x, real=True)
    metric.update(y, real=False)
    return max(float(metric.compute()), 0.0)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al., arXiv:1801.01401); all pairs at once."""
    return float(_torchmetrics("kid").poly_mmd(x.double(), y.double()))


def perceptual_distance(images: Tensor, reference: Tensor, *, judge: Judge) -> Tensor:
    """Distance of each image from its reference, `(n,)`, in the form of LPIPS.

    Activations of each level are normalised over channels; squared differences are averaged over places and summed
    over levels (Zhang et al., arXiv:1801.03924, equation 1). Every channel weighs the same: there are no human
    judgements here to fit weights to.

    Raises:
        InputError: If the numbers of images differ.
    """
    if len(images) != len(reference):
        raise InputError(f"{len(images)} images and {len(reference)} references: pairs need equal numbers")
    total = torch.zeros(len(images))
    for a, b in zip(judge.maps(images), judge.maps(reference), strict=True):
        total += (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
    return total


@torch.no_grad()
def text_image_score(
    images: Tensor, prompts: Sequence[str], *, contrast: Any, judge: Judge, seed: int = 0
) -> ImageMetric:
    """100 times the mean cosine of images with their prompts, negative ones counted as 0 (the form of CLIPScore).

    Args:
        images: `(n, 3, 32, 32)` in [0, 1].
        prompts: n prompts.
        contrast: The pair that `load_contrast` gives.
        judge: Judge 1, on whose features the pair's image tower stands.
        seed: Of the resampling.

    Raises:
        InputError: If the numbers of images and prompts differ.
    """
    check_images(images)
    if len(prompts) != len(images):
        raise InputError(f"{len(prompts)} prompts for {len(images)} images: write one each")
    cosines = (contrast.images(judge.features(images)) * contrast.texts(prompts)).sum(1)
    return mean_metric("text_image_score", 100 * cosines.clamp_min(0), seed)


def mean_metric(name: str, values: Tensor, seed: int) -> ImageMetric:
    """Mean of one value an image, `(n,)`, with its bootstrap interval."""
    interval = bootstrap_interval(values.cpu().double(), resamples=_RESAMPLES, seed=seed)
    return ImageMetric(name, float(values.mean()), interval.low, interval.high, len(values), seed, interval.method)


def _halved(name: str, distance: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, seed: int) -> ImageMetric:
    """The distance with a delete-half jackknife interval.

    Resampling with replacement would put doubles into a set, which both distances take for a difference. The spread
    over random halves without replacement is that of the whole (Shao and Wu, Ann. Stat. 17, 1989). The centre is the
    estimate from all images: the bias of a half is larger.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([distance(_half(x, generator), _half(y, generator)) for _ in range(_HALVES)])
    value, reach = distance(x, y), _Z * float(values.std())
    method = f"delete-half jackknife, {_HALVES} halves"
    return ImageMetric(name, value, value - reach, value + reach, min(len(x), len(y)), seed, method)


def _half(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[: math.ceil(len(x) / 2)]]


def _torchmetrics(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require(f"torchmetrics.image.{name}", extra="diffusion")
