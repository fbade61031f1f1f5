"""Stages `judge` and `judge2`: what is at each of two places, and whether the picture is of the kind that they know.

Five of six pictures are scenes: of one object, large, or small and to a side; of two, which may be twins; a few of
none. The rest is outside of the domain (`corruption.TRAINED`): of these only that is learned. All are moved, tinted,
softened, grained and quantised a little, and some go through the autoencoder, as what a pipeline draws.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.emoji.concepts import CONCEPTS
from efface_worlds.emoji.corruption import TRAINED, differing
from efface_worlds.emoji.drawing import render
from efface_worlds.emoji.networks import HEADS, NETWORKS, NOTHING, TONELESS, JudgeNetwork
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.emoji.training.augmenting import augmented
from efface_worlds.shapes.training.loop import Recipe, train

RECIPES = {
    1: Recipe("judge", steps=6500, batch=128, learning_rate=3e-3, flat_until=0.4, warmup=100, average=0.995, seed=1),
    2: Recipe("judge2", steps=5500, batch=128, learning_rate=2e-3, flat_until=0.4, warmup=200, average=0.995, seed=2),
}
_OUTSIDE = 6  # one in six pictures is none that a judge knows
_PEOPLE = 5  # one in five scenes is of people alone, who look most alike
_DECODED = 16  # one in sixteen goes through the autoencoder
_HELD_OUT_SEED = 990_000
_THINGS = tuple({c.group for c in CONCEPTS} - {c.group for c in CONCEPTS if c.profession})


@dataclass(frozen=True)
class Truth:
    """What is to be learned of n pictures.

    Attributes:
        object: Label at each place, the left one first, `NOTHING` where there is none, `(n, 2)`.
        tone: Label of its skin tone, `TONELESS` where it has none, `(n, 2)`.
        style: `(n,)`; means nothing where there is no object.
        background: `(n,)`.
        inside: Whether the rest means anything, `(n,)`.
    """

    object: Tensor
    tone: Tensor
    style: Tensor
    background: Tensor
    inside: Tensor

    def __getitem__(self, index: Any) -> Truth:
        return Truth(**{k: v[index] for k, v in vars(self).items()})

    @property
    def there(self) -> Tensor:
        """Which places have an object, `(n, 2)`."""
        return (self.object != NOTHING) & self.inside[:, None]

    @property
    def count(self) -> Tensor:
        """Number of objects, `(n,)`."""
        return (self.object != NOTHING).sum(1)


def train_judge(
    which: int,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    vae: Any,
    device: str = "cpu",
    calibrate_on: int = 6000,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train judge 1 or 2 and calibrate it on fresh pictures; returns it with the facts for `training.json`.

    Activations are in bfloat16, weights in float32.

    Args:
        which: 1 or 2.
        folder: Where checkpoints are written.
        recipe: How; None takes `RECIPES[which]`.
        vae: The autoencoder that some pictures go through.
        device: Where.
        calibrate_on: Fresh pictures.
        options: For the loop.
    """
    recipe = RECIPES[which] if recipe is None else recipe
    torch.manual_seed(recipe.seed)
    net: Any = NETWORKS[which]().to(device)
    net = net.to(memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        pictures, truth = labelled_batch(recipe.batch, recipe.generator(step), vae)
        with torch.autocast(device, torch.bfloat16):
            found = net.raw(pictures.to(device, memory_format=torch.channels_last))
        return loss_of({name: logits.float().cpu() for name, logits in found.items()}, truth)

    facts = train(net, loss, recipe, folder, **options)
    net = net.cpu().to(memory_format=torch.contiguous_format)
    calibrate(net, calibrate_on, vae)
    return net, facts


def labelled_batch(n: int, generator: torch.Generator, vae: Any) -> tuple[Tensor, Truth]:
    """Pictures and what is to be learned of them, in random order."""
    bad = n // _OUTSIDE
    scenes = inside(n - bad, generator)
    known = truth_of(scenes)
    fields = {k: torch.cat([v, v[:1].expand(bad, *v.shape[1:])]) for k, v in vars(known).items()}
    fields["inside"] = torch.arange(n) < n - bad
    order = torch.randperm(n, generator=generator)
    pictures = torch.cat([render(scenes), _outside(bad, generator)])[order]
    return augmented(pictures, generator, vae, n // _DECODED), Truth(**fields)[order]


def inside(n: int, generator: torch.Generator, *, two_objects: float = 0.3, small: float = 0.2) -> Scenes:
    """Scenes that a judge knows: as others, some of people alone, some of two with twins, some of nothing."""
    options: dict[str, Any] = {"generator": generator, "two_objects": two_objects, "small": small, "balanced": True}
    all_kinds = sample_scenes(n - n // _PEOPLE, **options)
    people = sample_scenes(max(n // _PEOPLE, 1), **options, without=_THINGS)
    scenes = Scenes(*(torch.cat([getattr(all_kinds, f.name), getattr(people, f.name)])[:n] for f in fields(Scenes)))
    u = torch.rand(n, 2, generator=generator)
    objects, tones = scenes.objects.clone(), scenes.tones.clone()
    twins = (objects[:, 1] != NONE) & (u[:, 0] < 0.15)
    objects[twins, 1], tones[twins, 1] = objects[twins, 0], tones[twins, 0]
    empty = u[:, 1] < 0.02
    objects[empty], tones[empty] = NONE, NONE
    return replace(scenes, objects=objects, tones=tones)


def truth_of(scenes: Scenes) -> Truth:
    """What is at each place of scenes that are inside of the domain."""
    there = scenes.objects != NONE
    order = torch.where(there, scenes.places[..., 0], 1000).argsort(dim=1, stable=True)
    objects = torch.where(there, scenes.objects, NOTHING).gather(1, order)
    tones = torch.where(scenes.tones != NONE, scenes.tones, TONELESS).gather(1, order)
    return Truth(objects, tones, scenes.style, scenes.background, torch.ones(len(scenes), dtype=torch.bool))


def _outside(n: int, generator: torch.Generator) -> Tensor:
    """N pictures out of the domain, of every kind in turn."""
    kinds = list(TRAINED.values())
    start = int(torch.randint(0, len(kinds), (1,), generator=generator))
    sizes = torch.bincount((start + torch.arange(n)) % len(kinds), minlength=len(kinds)).tolist()
    # Two at least are drawn, since some kinds mix a picture with its neighbour.
    made = (f(render(differing(max(k, 2), generator)), generator)[:k] for f, k in zip(kinds, sizes, strict=True) if k)
    return torch.cat(list(made))


def loss_of(found: dict[str, Tensor], truth: Truth) -> Tensor:
    """Cross-entropies of all heads; `found` is what `JudgeNetwork.raw` gives."""
    chosen, names = truth.inside, truth.object
    slots = torch.stack([(truth.count == 1), (truth.count == 2), (truth.count == 2)], 1) & chosen[:, None]
    labels, tones = names[:, [0, 0, 1]], truth.tone[:, [0, 0, 1]]
    shown = chosen & (truth.count > 0)
    toned = (tones != TONELESS) & slots
    # Most objects have no tone: those that have one count as much as all others.
    tone = F.cross_entropy(found["tone"][slots], tones[slots], reduction="none")
    weight = torch.where(toned[slots], 4.0, 1.0)
    return (
        F.cross_entropy(found["object"][slots], labels[slots])
        + 0.3 * (tone * weight).mean()
        + 0.3 * F.cross_entropy(found["count"][chosen], truth.count[chosen])
        + F.cross_entropy(found["style"][shown], truth.style[shown])
        + 0.3 * F.cross_entropy(found["background"][chosen], truth.background[chosen])
        + 0.5 * F.binary_cross_entropy_with_logits(found["domain"], chosen.float())
    )


@torch.no_grad()
def calibrate(net: JudgeNetwork, n: int, vae: Any) -> None:
    """One temperature a head: the one of a grid with the least loss on fresh pictures inside and outside of the domain.

    Source: Guo et al., arXiv:1706.04599, section 4.2.
    """
    size = min(n, 500)
    made = [labelled_batch(size, torch.Generator().manual_seed(_HELD_OUT_SEED + i), vae) for i in range(n // size)]
    net.eval()
    temperatures = net.get_buffer("temperatures")
    found = [net.raw(pictures) for pictures, _ in made]
    raw = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    truth = Truth(**{k: torch.cat([getattr(t, k) for _, t in made]) for k in vars(made[0][1])})
    grid = torch.exp(torch.linspace(-1.5, 1.5, 61))
    for i, name in enumerate(HEADS):
        losses = torch.stack([_head_loss(name, raw[name] / t, truth) for t in grid])
        temperatures[i] = grid[int(losses.argmin())]


def _head_loss(name: str, logits: Tensor, truth: Truth) -> Tensor:
    if name == "domain":
        return F.binary_cross_entropy_with_logits(logits, truth.inside.float())
    if name in ("object", "tone"):
        slots = torch.stack([truth.count == 1, truth.count == 2, truth.count == 2], 1) & truth.inside[:, None]
        return F.cross_entropy(logits[slots], getattr(truth, name)[:, [0, 0, 1]][slots])
    rows = truth.inside & ((truth.count > 0) | (name == "background"))
    return F.cross_entropy(logits[rows], getattr(truth, name)[rows])
