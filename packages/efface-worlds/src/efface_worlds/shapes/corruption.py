"""Images that show none of the objects: what a judge must not read an object into."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.shapes.drawing import SIZE, render
from efface_worlds.shapes.scenes import Scenes, sample_scenes

Corruption = Callable[[Tensor, torch.Generator], Tensor]


def blended(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mixed with the next one, at 35 to 65 percent."""
    share = 0.35 + 0.3 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images * share + images.roll(1, 0) * (1 - share)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, of any coarseness from one pixel to eight, with none of the image."""
    cells = torch.rand(len(images), 3, SIZE, SIZE, generator=generator)
    size = int(2 ** torch.randint(0, 4, (1,), generator=generator))
    return F.interpolate(cells[:, :, ::size, ::size], size=(SIZE, SIZE), mode="nearest")


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Tiles of 8 x 8 pixels in another order."""
    tiles = F.unfold(images, 8, stride=8)
    order = torch.rand(len(images), tiles.shape[2], generator=generator).argsort(1)
    return F.fold(tiles.gather(2, order[:, None].expand_as(tiles)), SIZE, 8, stride=8)


def blobs(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random smooth outline in one colour on the image's top left background tone."""
    coarse = torch.randn(len(images), 1, 5, 5, generator=generator)
    field = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    cover = (field * 4 - 1.2).clamp(0, 1)
    tone = torch.rand(len(images), 3, 1, 1, generator=generator)
    return images[:, :, :1, :1] * (1 - cover) + tone * cover


def empty(images: Tensor, generator: torch.Generator) -> Tensor:
    """The background alone, with a little noise: each row takes its left border's tone."""
    return (images[..., :1] + 0.02 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Four by four tones for the whole image, interpolated."""
    return F.interpolate(F.avg_pool2d(images, SIZE // 4), size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def halves(images: Tensor, generator: torch.Generator) -> Tensor:
    """Left half of one image, right half of the next."""
    return torch.cat([images[..., : SIZE // 2], images.roll(1, 0)[..., SIZE // 2 :]], -1)


def quarter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rows in another order, in bands of four."""
    order = torch.randperm(SIZE // 4, generator=generator)
    return images.unflatten(2, (SIZE // 4, 4))[:, :, order].flatten(2, 3)


TRAINED: dict[str, Corruption] = {
    "blended": blended,
    "noise": noise,
    "shuffled": shuffled,
    "blobs": blobs,
    "empty": empty,
    "blurred": blurred,
}
"""What judges are trained to call none."""

UNSEEN: dict[str, Corruption] = {"halves": halves, "bands": quarter}
"""What they were never shown."""


def corrupted(n: int, name: str, *, seed: int) -> Tensor:
    """N corrupted renderings of distinct single objects, `(n, 3, 32, 32)`, by the name of the corruption."""
    generator = torch.Generator().manual_seed(seed)
    return {**TRAINED, **UNSEEN}[name](render(differing(n, generator)), generator)


def differing(n: int, generator: torch.Generator) -> Scenes:
    """Scenes of one object in which neighbours never show the same object."""
    scenes = sample_scenes(n, generator=generator, two_objects=0.0, balanced=True)
    start = int(torch.randint(0, 10, (1,), generator=generator))
    scenes.objects[:, 0] = (start + 3 * torch.arange(n)) % 10
    if n > 1 and int(scenes.objects[0, 0]) == int(scenes.objects[-1, 0]):
        scenes.objects[-1, 0] = (scenes.objects[-1, 0] + 1) % 10
    return scenes
