"""Stages `judge` and `judge2`: what is at each of two places, and whether the image is of the kind that they know.

Three quarters of a batch are scenes: of one object, large, or small and to a side; of two, which may be twins or
differ in style; a few of none. The rest is outside of the domain (`corruption.TRAINED`): of these only that is learned.
All are softened, or go through the autoencoder with a little noise on their latents, as what a pipeline draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface_worlds.shapes.concepts import COLOURS, OBJECTS, STYLES
from efface_worlds.shapes.corruption import TRAINED, differing
from efface_worlds.shapes.drawing import SIZE, paint, render
from efface_worlds.shapes.networks import GRID, HEADS, NETWORKS, GridJudge, JudgeNetwork
from efface_worlds.shapes.scenes import NONE, Scenes, sample_scenes
from efface_worlds.shapes.training.loop import Recipe, train

RECIPES = {
    1: Recipe("judge", steps=1800, batch=112, learning_rate=3e-3, seed=1, average=0.99),
    2: Recipe("judge2", steps=1800, batch=96, learning_rate=2e-3, seed=2, average=0.99),
}
_OUTSIDE = 4  # one in four images is none that a judge knows
_DECODED = 4  # one in four goes through the autoencoder
_HELD_OUT_SEED = 990_000
_NOTHING = len(OBJECTS)


@dataclass(frozen=True)
class Truth:
    """What is to be learned of n images.

    Attributes:
        object: Label at each place, the left one first, `len(OBJECTS)` where there is none, `(n, 2)`.
        colour: `(n, 2)`; means nothing where there is no object.
        style: The same.
        background: `(n,)`.
        centre: Pixel of each object, x and y, `(n, 2, 2)`.
        inside: Whether the rest means anything, `(n,)`.
    """

    object: Tensor
    colour: Tensor
    style: Tensor
    background: Tensor
    centre: Tensor
    inside: Tensor

    @property
    def there(self) -> Tensor:
        """Which places have an object, `(n, 2)`."""
        return (self.object != _NOTHING) & self.inside[:, None]

    def named(self) -> Tensor:
        """Which objects, colours and styles are anywhere, `(n, 24)`, 0 or 1."""
        sizes = {"object": len(OBJECTS), "colour": len(COLOURS), "style": len(STYLES)}
        hot = [F.one_hot(getattr(self, k).clamp_max(size - 1), size) for k, size in sizes.items()]
        return (torch.cat(hot, -1) * self.there[..., None]).amax(1).float()


def train_judge(
    which: int,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    vae: Any = None,
    device: str = "cpu",
    calibrate_on: int = 6000,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Train judge 1 or 2 and calibrate it on fresh images; returns it with the facts for `training.json`.

    Args:
        which: 1 or 2.
        folder: Where checkpoints are written.
        recipe: How; None takes `RECIPES[which]`.
        vae: The autoencoder that some images go through; None leaves that out.
        device: Where.
        calibrate_on: Fresh images.
        options: For the loop.
    """
    recipe = RECIPES[which] if recipe is None else recipe
    torch.manual_seed(recipe.seed)
    net = NETWORKS[which]().to(device)

    def loss(step: int) -> Tensor:
        images, truth = labelled_batch(recipe.batch, recipe.generator(step), vae)
        return _loss(net, images.to(device), truth, device)

    facts = train(net, loss, recipe, folder, **options)
    _calibrate(net.cpu(), calibrate_on, vae)
    return net, facts


def labelled_batch(n: int, generator: torch.Generator, vae: Any = None) -> tuple[Tensor, Truth]:
    """Images and what is to be learned of them, in random order."""
    bad = n // _OUTSIDE
    images, truth = _inside(n - bad, generator)
    ruined = _outside(bad, generator)
    fields = {k: torch.cat([v, v[:1].expand(bad, *v.shape[1:])]) for k, v in vars(truth).items()}
    fields["inside"] = torch.arange(n) < n - bad
    order = torch.randperm(n, generator=generator)
    images = _softened(torch.cat([images, ruined])[order], generator)
    if vae is not None:
        images[: n // _DECODED] = _decoded(vae, images[: n // _DECODED], generator)
    return images, Truth(**{k: v[order] for k, v in fields.items()})


def _inside(n: int, generator: torch.Generator) -> tuple[Tensor, Truth]:
    scenes = sample_scenes(n, generator=generator, two_objects=0.6, balanced=True)
    u = torch.rand(n, 4, generator=generator)
    two = scenes.objects[:, 1] != NONE
    twins = two & (u[:, 0] < 0.2)
    scenes.objects[twins, 1], scenes.colours[twins, 1] = scenes.objects[twins, 0], scenes.colours[twins, 0]
    scenes.objects[two & (u[:, 1] < 0.16), 1] = NONE
    scenes.objects[(two & (u[:, 1] > 0.92)) | (u[:, 2] < 0.03), 0] = NONE
    scenes.places[..., :2] += 2 * torch.rand(n, 2, 2, generator=generator) - 1
    scenes.places[..., 2] *= 0.93 + 0.14 * torch.rand(n, 2, generator=generator)
    other = torch.randint(0, len(STYLES), (n,), generator=generator)
    styles = torch.stack([scenes.style, torch.where(u[:, 3] < 0.3, other, scenes.style)], 1)
    return drawn(scenes, styles), truth_of(scenes, styles)


def drawn(scenes: Scenes, styles: Tensor) -> Tensor:
    """Draw scenes whose objects have a style each, `(n, 2)`."""
    first = scenes.objects.clone()
    first[:, 1] = NONE
    images = render(replace(scenes, objects=first, style=styles[:, 0]))
    return paint(images, replace(scenes, style=styles[:, 1]), 1).clamp(0, 1)


def truth_of(scenes: Scenes, styles: Tensor) -> Truth:
    """What is at each place of scenes that are inside of the domain."""
    there = scenes.objects != NONE
    order = torch.where(there, scenes.places[..., 0], 1e3).argsort(dim=1, stable=True)
    objects = torch.where(there, scenes.objects, _NOTHING)
    return Truth(
        *(x.gather(1, order) for x in (objects, scenes.colours, styles)),
        background=scenes.background,
        centre=scenes.places[..., :2].take_along_dim(order[..., None], 1),
        inside=torch.ones(len(scenes), dtype=torch.bool),
    )


def _outside(n: int, generator: torch.Generator) -> Tensor:
    """N images out of the domain, of every kind in turn."""
    kinds = list(TRAINED.values())
    start = int(torch.randint(0, len(kinds), (1,), generator=generator))
    sizes = torch.bincount((start + torch.arange(n)) % len(kinds), minlength=len(kinds)).tolist()
    # Two at least are drawn, since some kinds mix an image with its neighbour.
    made = (f(render(differing(max(k, 2), generator)), generator)[:k] for f, k in zip(kinds, sizes, strict=True) if k)
    return torch.cat(list(made))


def _softened(images: Tensor, generator: torch.Generator) -> Tensor:
    """A little blur and noise in half of the images, as an autoencoder leaves them."""
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = 0.5 * torch.rand(len(images), 1, 1, 1, generator=generator)
    share = torch.where(torch.rand(share.shape, generator=generator) < 0.5, share, 0.0)
    grain = 0.08 * share * torch.randn(images.shape, generator=generator)
    return (images + share * (soft - images) + grain).clamp(0, 1)


@torch.no_grad()
def _decoded(vae: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    """Images as the autoencoder gives them back, from latents with up to a fifth of their spread in noise."""
    latents = vae.encode(images * 2 - 1).latent_dist.mean
    share = 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator) / vae.config.scaling_factor
    return (vae.decode(latents + share * torch.randn(latents.shape, generator=generator)).sample / 2 + 0.5).clamp(0, 1)


def _loss(net: JudgeNetwork, images: Tensor, truth: Truth, device: str) -> Tensor:
    last = net.maps(images)[-1]
    features, inside = net.pool(last), truth.inside
    domain, background, named = (head(features).cpu() for head in (net.domain, net.background, net.named))
    return (
        2.0 * F.binary_cross_entropy_with_logits(domain[:, 0], inside.float())
        + F.cross_entropy(background[inside], truth.background[inside])
        + 2.0 * F.binary_cross_entropy_with_logits(named[inside], truth.named()[inside])
        + (_grid_loss(net, last, truth) if isinstance(net, GridJudge) else _pair_loss(net.places(last), truth))
    )


def _grid_loss(net: GridJudge, last: Tensor, truth: Truth) -> Tensor:
    """Focal loss of centres with neighbours counted less (CornerNet, arXiv:1808.01244, equation 1), and their kinds."""
    centre, *kinds = (x.cpu() for x in net.grid(last))
    cell = SIZE / GRID
    middles = cell * (torch.arange(GRID) + 0.5) - 0.5
    dx, dy = (truth.centre[..., i, None] - middles for i in (0, 1))
    near = torch.exp(-(dy[..., :, None].square() + dx[..., None, :].square()) / (2 * 2.5**2)).flatten(2)
    near = near * truth.there[..., None]
    own = near.argmax(-1)  # (n, 2)
    marked = torch.zeros_like(centre).scatter_add_(1, own, truth.there.float()) > 0
    soft, p = near.amax(1), centre.sigmoid()
    hit = -(1 - p).square() * F.logsigmoid(centre)
    miss = -(1 - soft).pow(4) * p.square() * F.logsigmoid(-centre)
    rows = truth.inside
    total = torch.where(marked, hit, miss)[rows].sum() / truth.there.sum().clamp_min(1)
    # The neighbours of a centre learn its kind too: with drawn images the peak may be beside it.
    weight = torch.where(near > 0.5, near, 0.0).flatten()
    for logits, labels in zip(kinds, (truth.object, truth.colour, truth.style), strict=True):
        wanted = labels.clamp_max(logits.shape[-1] - 1)[..., None].expand(-1, -1, GRID * GRID).flatten()
        given = logits[:, None].expand(-1, 2, -1, -1).flatten(0, 2)
        chosen = weight > 0
        losses = F.cross_entropy(given[chosen], wanted[chosen], reduction="none")
        total = total + (losses * weight[chosen]).sum() / weight.sum().clamp_min(1)
    return total


def _pair_loss(found: dict[str, Tensor], truth: Truth) -> Tensor:
    """Cross-entropy at each place."""
    losses = [F.cross_entropy(found["object"].cpu()[truth.inside].flatten(0, 1), truth.object[truth.inside].flatten())]
    for name in ("colour", "style"):
        losses.append(F.cross_entropy(found[name].cpu()[truth.there], getattr(truth, name)[truth.there]))
    return 2 * losses[0] + losses[1] + losses[2]


@torch.no_grad()
def _calibrate(net: JudgeNetwork, n: int, vae: Any) -> None:
    """One temperature a head: the one of a grid with the least loss on fresh images inside and outside of the domain.

    Source: Guo et al., arXiv:1706.04599, section 4.2.
    """
    size = min(n, 500)
    made = [labelled_batch(size, torch.Generator().manual_seed(_HELD_OUT_SEED + i), vae) for i in range(n // size)]
    net.eval()
    temperatures = net.get_buffer("temperatures")
    temperatures.fill_(1.0)
    found = [net(images) for images, _ in made]
    grid = torch.exp(torch.linspace(-1.5, 1.5, 61))
    for i, name in enumerate(HEADS):
        logits = torch.cat([part[name] for part in found])
        truth = Truth(**{k: torch.cat([getattr(t, k) for _, t in made]) for k in vars(made[0][1])})
        losses = torch.stack([_head_loss(name, logits / t, truth) for t in grid])
        temperatures[i] = grid[int(losses.argmin())]


def _head_loss(name: str, logits: Tensor, truth: Truth) -> Tensor:
    if name == "domain":
        return F.binary_cross_entropy_with_logits(logits, truth.inside.float())
    rows = truth.there if name in ("colour", "style") else truth.inside
    return F.cross_entropy(logits[rows].flatten(0, -2), getattr(truth, name)[rows].flatten())
