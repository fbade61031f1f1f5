"""Images outside of what judges know, which is a background with no, one or two of the objects: nothing to answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.shapes.drawing import paint, render
from efface_worlds.shapes.scenes import NONE, Scenes, sample_scenes

Corruption = Callable[[Tensor, torch.Generator], Tensor]


def blended(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mixed with the next one, at 35 to 65 percent."""
    share = 0.35 + 0.3 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images * share + images.roll(1, 0) * (1 - share)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, of any coarseness from one pixel to eight, with none of the image."""
    cells = torch.rand(images.shape, generator=generator)
    size = int(2 ** torch.randint(0, 4, (1,), generator=generator))
    return F.interpolate(cells[:, :, ::size, ::size], size=images.shape[2:], mode="nearest")


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Tiles of 8 x 8 pixels in another order."""
    tiles = F.unfold(images, 8, stride=8)
    order = torch.rand(len(images), tiles.shape[2], generator=generator).argsort(1)
    return F.fold(tiles.gather(2, order[:, None].expand_as(tiles)), images.shape[2:], 8, stride=8)


def blobs(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random smooth outline in one colour on the image's top left background tone."""
    coarse = torch.randn(len(images), 1, 5, 5, generator=generator)
    field = F.interpolate(coarse, size=images.shape[2:], mode="bicubic", align_corners=True)
    cover = (field * 4 - 1.2).clamp(0, 1)
    tone = torch.rand(len(images), 3, 1, 1, generator=generator)
    return images[:, :, :1, :1] * (1 - cover) + tone * cover


def empty(images: Tensor, generator: torch.Generator) -> Tensor:
    """The background alone, with a little noise: each row takes its left border's tone."""
    return (images[..., :1] + 0.02 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Four by four tones for the whole image, interpolated."""
    tones = F.avg_pool2d(images, images.shape[-1] // 4)
    return F.interpolate(tones, size=images.shape[2:], mode="bilinear", align_corners=False)


def halves(images: Tensor, generator: torch.Generator) -> Tensor:
    """Left half of one image, right half of the next."""
    half = images.shape[-1] // 2
    return torch.cat([images[..., :half], images.roll(1, 0)[..., half:]], -1)


def crowd(images: Tensor, generator: torch.Generator) -> Tensor:
    """Three or four objects: in the corners, three of them in a row, or in a triangle."""
    return _arranged(len(images), _CROWDS, generator)


def bands(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rows in another order, in bands of four."""
    order = torch.randperm(images.shape[2] // 4, generator=generator)
    return images.unflatten(2, (len(order), 4))[:, :, order].flatten(2, 3)


def column(images: Tensor, generator: torch.Generator) -> Tensor:
    """Three or four objects, three of them one below the other."""
    return _arranged(len(images), _COLUMN, generator)


def quarters(images: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter each of four images."""
    half, others = images.shape[-1] // 2, [images.roll(i, 0) for i in range(4)]
    top = torch.cat([others[0][..., :half, :half], others[1][..., :half, half:]], -1)
    return torch.cat([top, torch.cat([others[2][..., half:, :half], others[3][..., half:, half:]], -1)], -2)


_CROWDS = (
    ((8, 8), (23, 23), (23, 8), (8, 23)),
    ((5, 16), (16, 16), (26, 16), (16, 6)),
    ((8, 22), (23, 22), (16, 8), (16, 27)),
    ((8, 16), (23, 16), (16, 6), (16, 26)),
)
_COLUMN = (((16, 5), (16, 16), (16, 26), (27, 16)),)


def _arranged(n: int, layouts: tuple[tuple[tuple[int, int], ...], ...], generator: torch.Generator) -> Tensor:
    """Objects at the four places of a layout, the last one in half of the images."""
    first, second = (sample_scenes(n, generator=generator, two_objects=1.0, balanced=True) for _ in range(2))
    second.objects[torch.rand(n, generator=generator) < 0.5, 1] = NONE
    places = torch.tensor(layouts, dtype=torch.float32)[torch.randint(0, len(layouts), (n,), generator=generator)]
    places = places + 3 * torch.rand(n, 4, 2, generator=generator) - 1.5
    radius = 3.8 + 2 * torch.rand(n, 1, generator=generator)
    for scenes, where in ((first, places[:, :2]), (second, places[:, 2:])):
        scenes.places[..., :2] = where
        scenes.places[..., 2] = radius
    return paint(paint(render(first), second, 0), second, 1).clamp(0, 1)


TRAINED: dict[str, Corruption] = {
    "blended": blended,
    "noise": noise,
    "shuffled": shuffled,
    "blobs": blobs,
    "blurred": blurred,
    "halves": halves,
    "crowd": crowd,
}
"""Where judges are trained to say that they cannot say."""

UNSEEN: dict[str, Corruption] = {"bands": bands, "column": column, "quarters": quarters}
"""What they were never shown, and should know nothing to say of either."""

INSIDE: dict[str, Corruption] = {"empty": empty}
"""What shows no object, and can be told to."""


def corrupted(n: int, name: str, *, seed: int) -> Tensor:
    """N corrupted renderings of distinct single objects, `(n, 3, 32, 32)`, by the name of the corruption."""
    generator = torch.Generator().manual_seed(seed)
    return {**TRAINED, **UNSEEN, **INSIDE}[name](render(differing(n, generator)), generator)


def differing(n: int, generator: torch.Generator) -> Scenes:
    """Scenes of one object in which neighbours never show the same object."""
    scenes = sample_scenes(n, generator=generator, two_objects=0.0, balanced=True)
    start = int(torch.randint(0, 10, (1,), generator=generator))
    scenes.objects[:, 0] = (start + 3 * torch.arange(n)) % 10
    if n > 1 and int(scenes.objects[0, 0]) == int(scenes.objects[-1, 0]):
        scenes.objects[-1, 0] = (scenes.objects[-1, 0] + 1) % 10
    return scenes
