"""Stages `judge` and `judge2`: classifiers of renderings that also know when there is nothing to classify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.shapes.corruption import TRAINED, differing
from efface_worlds.shapes.drawing import render
from efface_worlds.shapes.networks import HEADS, NETWORKS, JudgeNetwork
from efface_worlds.shapes.scenes import NONE, Scenes, sample_scenes
from efface_worlds.shapes.training.loop import Recipe, train

RECIPES = {
    1: Recipe("judge", steps=1500, batch=112, learning_rate=3e-3, seed=1, average=0.99),
    2: Recipe("judge2", steps=1500, batch=96, learning_rate=2e-3, seed=2, average=0.99),
}
_CORRUPT = 6  # one in six images shows none of the objects
_HELD_OUT_SEED = 990_000


def train_judge(
    which: int,
    folder: Path,
    recipe: Recipe | None = None,
    device: str = "cpu",
    calibrate_on: int = 6000,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train judge 1 or 2 and calibrate it on fresh renderings; returns it with the facts for `training.json`."""
    recipe = RECIPES[which] if recipe is None else recipe
    torch.manual_seed(recipe.seed)
    net = NETWORKS[which]().to(device)

    def loss(step: int) -> Tensor:
        images, scenes = labelled_batch(recipe.batch, recipe.generator(step))
        logits = net(images.to(device))
        return _loss({name: value.cpu() for name, value in logits.items()}, scenes)

    facts = train(net, loss, recipe, folder, **options)
    _calibrate(net.cpu(), calibrate_on)
    return net, facts


def labelled_batch(n: int, generator: torch.Generator) -> tuple[Tensor, Scenes]:
    """Images and scenes; in the last sixth the image is corrupted and the scene's first object `NONE`."""
    bad = n // _CORRUPT
    good = sample_scenes(n - bad, generator=generator, two_objects=0.25, balanced=True)
    names = list(TRAINED)
    name = names[int(torch.randint(0, len(names), (1,), generator=generator))]
    ruined = differing(bad, generator)
    images = torch.cat([_softened(render(good), generator), TRAINED[name](render(ruined), generator)])
    ruined.objects[:] = NONE
    return images, Scenes(*(torch.cat([a, b]) for a, b in zip(_tensors(good), _tensors(ruined), strict=True)))


def _softened(images: Tensor, generator: torch.Generator) -> Tensor:
    """A little blur and noise in half of the images, as an autoencoder leaves them."""
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = 0.5 * torch.rand(len(images), 1, 1, 1, generator=generator)
    share = torch.where(torch.rand(share.shape, generator=generator) < 0.5, share, 0.0)
    grain = 0.08 * share * torch.randn(images.shape, generator=generator)
    return (images + share * (soft - images) + grain).clamp(0, 1)


def _loss(logits: dict[str, Tensor], scenes: Scenes) -> Tensor:
    there, single = scenes.objects[:, 0] != NONE, scenes.objects[:, 1] == NONE
    objects = torch.where(there, scenes.objects[:, 0], HEADS["object"] - 1)
    presence = presence_of(scenes)
    alone = there & single
    return (
        F.cross_entropy(logits["object"][single], objects[single])
        + F.cross_entropy(logits["colour"][alone], scenes.colours[alone, 0])
        + F.cross_entropy(logits["style"][there], scenes.style[there])
        + F.cross_entropy(logits["background"][there], scenes.background[there])
        + 0.5 * F.cross_entropy(logits["count"][there], (scenes.count - 1)[there])
        + 2.0 * F.binary_cross_entropy_with_logits(logits["presence"], presence)
    )


def presence_of(scenes: Scenes) -> Tensor:
    """Which objects are in a scene, `(n, 10)`, 0 or 1."""
    hot = F.one_hot(scenes.objects.clamp_min(0), HEADS["presence"]) * (scenes.objects != NONE)[..., None]
    return hot.amax(1).float()


def _tensors(scenes: Scenes) -> list[Tensor]:
    return [getattr(scenes, name) for name in scenes.__dataclass_fields__]


@torch.no_grad()
def _calibrate(net: JudgeNetwork, n: int) -> None:
    """One temperature a head: the one of a grid with the least loss on fresh renderings and corruptions.

    Source: Guo et al., arXiv:1706.04599, section 4.2.
    """
    size = min(n, 500)
    batches = [labelled_batch(size, torch.Generator().manual_seed(_HELD_OUT_SEED + i)) for i in range(n // size)]
    net.eval()
    temperatures = net.get_buffer("temperatures")
    temperatures.fill_(1.0)
    logits = [net(images) for images, _ in batches]
    grid = torch.exp(torch.linspace(-1.5, 1.5, 61))
    for i, name in enumerate(HEADS):
        flat = torch.cat([part[name] for part in logits])
        losses = [_head_loss(name, flat / t, [scenes for _, scenes in batches]) for t in grid]
        temperatures[i] = grid[int(torch.stack(losses).argmin())]


def _head_loss(name: str, logits: Tensor, scenes: list[Scenes]) -> Tensor:
    if name == "presence":
        return F.binary_cross_entropy_with_logits(logits, torch.cat([presence_of(s) for s in scenes]))
    labels, rows = (torch.cat(parts) for parts in zip(*(labels_of(name, s) for s in scenes), strict=True))
    return F.cross_entropy(logits[rows], labels[rows])


def labels_of(name: str, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Labels of a head and the rows in which they are defined, `(n,)` each."""
    there, single = scenes.objects[:, 0] != NONE, scenes.objects[:, 1] == NONE
    if name == "object":
        return torch.where(there, scenes.objects[:, 0], HEADS["object"] - 1), single
    if name == "colour":
        return scenes.colours[:, 0], there & single
    labels = {"style": scenes.style, "background": scenes.background, "count": scenes.count - 1}[name]
    return labels, there
