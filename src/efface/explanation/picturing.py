"""The pictures of a report: each image with the maps over it, and the mean of all maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from efface.audit.audit import Audit
from efface.audit.figure import Figure
from efface.audit.picture import Picture
from efface.explanation.mapping import AT, Maps

_LONGEST_SIDE = 320
_NAME = 28
_TEXT = (
    "Over each picture lies what a method calls important. Where nothing is, the picture itself is seen, dark and "
    "grey. Masks (qfa, diet) are drawn as they are: 1 is kept, 0 is replaced. Other maps have no scale of their own; "
    "each is drawn from 0 to its 0.5% of highest values. “That alone” is what the model says when all but the mask is "
    "replaced, “top 5%” when all but the 5% of pixels ranked highest is."
)


@dataclass(frozen=True)
class Shown:
    """Images and what is said of them.

    Attributes:
        images: `(n, channels, h, w)` in [0, 1], on the CPU.
        said: Probabilities of the model, `(n, classes)`.
        names: Names of the images.
        classes: Names of the classes.
        labels: True classes `(n,)`.
    """

    images: Tensor
    said: Tensor
    names: Sequence[str] | None
    classes: Sequence[str] | None
    labels: Tensor | None

    def name(self, i: int) -> str:
        """What an image is called."""
        return f"image {i}" if self.names is None else str(self.names[i])

    def of_class(self, k: int) -> str:
        """What a class is called: the first of its names, not too long."""
        name = f"class {k}" if self.classes is None else str(self.classes[k])
        name = name.split(",")[0]
        return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def picture_part(shown: Shown, maps: Sequence[Maps], count: int) -> Audit:
    """A part of an audit with the mean maps and a row of pictures for each of the first `count` images."""
    n = len(shown.images)
    figures = [_row(shown, maps, i) for i in range(min(count, n))]
    text = (_TEXT, *([f"The first {count} of {n} images."] if count < n else []))
    return Audit("The pictures", text=text, figures=(*([_mean(shown, maps)] if n > 1 else []), *figures))


def _row(shown: Shown, maps: Sequence[Maps], i: int) -> Figure:
    probability, k = float(shown.said[i].max()), int(shown.said[i].argmax())
    told = shown.of_class(k)
    lines = [f"says {told}, {probability:.0%}"]
    if shown.labels is not None:
        lines.append(f"true: {shown.of_class(int(shown.labels[i]))}")
    pixels = to_pixels(shown.images[i])
    pictures = [Picture("picture", tuple(lines), pixels)]
    for found in maps:
        after = f"{told}, {float(found.told[i]):.0%}"
        words = (f"top {AT:.0%}: {after}",)
        if found.size is not None:
            words = (f"keeps {float(found.size[i]):.0%} of it", f"that alone: {after}")
        pictures.append(Picture(found.method, words, pixels, to_heat(found.heat[i])))
    return Figure(shown.name(i), kind="overlays", pictures=tuple(pictures))


def _mean(shown: Shown, maps: Sequence[Maps]) -> Figure:
    pixels = to_pixels(shown.images.mean(0))
    means = [found.heat.mean(0) for found in maps]
    over = [
        Picture(found.method, (), pixels, to_heat(mean / max(float(mean.max()), 1e-9)))
        for found, mean in zip(maps, means, strict=True)
    ]
    return Figure(
        f"All {len(shown.images)} images: mean picture, mean maps",
        kind="overlays",
        pictures=(Picture("picture", (), pixels), *over),
        caption="Each mean map is drawn up to its own greatest value. What lights up at one place in the mean is a "
        "mark that many images share, such as a logo, a date or a border, or it is where the objects stand.",
    )


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """An image `(channels, h, w)` in [0, 1] as uint8 `(h, w, 3)`, at most 320 on its longer side.

    One channel becomes grey; of two, or more than three, the mean does.
    """
    x = image.detach().float().cpu().clamp(0, 1)
    x = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
    return (255 * _fitted(x)).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def to_heat(values: Tensor) -> NDArray[np.floating]:
    """A map `(h, w)` in [0, 1] at the size of `to_pixels`."""
    return _fitted(values.detach().float().cpu()[None])[0].clamp(0, 1).numpy()


def _fitted(x: Tensor) -> Tensor:
    factor = _LONGEST_SIDE / max(x.shape[1:])
    if factor >= 1:
        return x
    size = [max(1, round(side * factor)) for side in x.shape[1:]]
    return F.interpolate(x[None], size=size, mode="area")[0].clamp(0, 1)
