"""Pictures outside of what judges know, which is a plain ground with no, one or two emoji: nothing to answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.emoji.concepts import CONCEPTS
from efface_worlds.emoji.drawing import render
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.shapes import corruption as shapes
from efface_worlds.shapes.corruption import Corruption
from efface_worlds.shapes.drawing import render as render_shapes
from efface_worlds.shapes.scenes import sample_scenes as sample_shapes


def drawings(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Other drawings: one of the shapes world, whatever the picture was."""
    scenes = sample_shapes(len(pictures), generator=generator, balanced=True)
    return F.interpolate(render_shapes(scenes), size=pictures.shape[2:], mode="bilinear", align_corners=False)


def quartet(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Four small pictures in one: more objects than a judge tells apart."""
    return shapes.quarters(F.interpolate(pictures, scale_factor=0.5, mode="area").repeat(1, 1, 2, 2), generator)


def stacked(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Upper half of one picture, lower half of the next."""
    half = pictures.shape[2] // 2
    return torch.cat([pictures[:, :, :half], pictures.roll(1, 0)[:, :, half:]], 2)


def torn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Bent: each pixel comes from elsewhere, by a smooth random field of up to a quarter of the picture."""
    field = 0.9 * torch.randn(len(pictures), 2, 5, 5, generator=generator).clamp(-2, 2) / 2
    field = F.interpolate(field, size=pictures.shape[2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3).expand(len(pictures), -1, -1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid + field, mode="bilinear", padding_mode="reflection", align_corners=False)


TRAINED: dict[str, Corruption] = {
    "blended": shapes.blended,
    "noise": shapes.noise,
    "shuffled": shapes.shuffled,
    "blobs": shapes.blobs,
    "blurred": shapes.blurred,
    "stacked": stacked,
    "quartet": quartet,
    "drawings": drawings,
}
"""Where judges are trained to say that they cannot say."""

UNSEEN: dict[str, Corruption] = {"bands": shapes.bands, "quarters": shapes.quarters, "torn": torn}
"""What they were never shown, and should know nothing to say of either."""

INSIDE: dict[str, Corruption] = {"empty": shapes.empty}
"""What shows no object, and can be told to."""


def corrupted(n: int, name: str, *, seed: int) -> Tensor:
    """N corrupted renderings of single large objects, neighbours differing, `(n, 3, 48, 48)`, by the kind's name."""
    generator = torch.Generator().manual_seed(seed)
    return {**TRAINED, **UNSEEN, **INSIDE}[name](render(differing(n, generator)), generator)


def differing(n: int, generator: torch.Generator) -> Scenes:
    """Scenes of one large object in which neighbours never show the same one."""
    scenes = sample_scenes(n, generator=generator, two_objects=0.0, small=0.0, balanced=True)
    same = scenes.objects[:, 0] == scenes.objects[:, 0].roll(1)
    if n > 1 and bool(same.any()):
        scenes.objects[same, 0] = (scenes.objects[same, 0] + len(CONCEPTS) // 2) % len(CONCEPTS)
        scenes.tones[same] = NONE
    return scenes
