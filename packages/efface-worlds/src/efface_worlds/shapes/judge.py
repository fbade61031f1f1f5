"""The judge: what an image shows, object by object, as calibrated probabilities; or that it cannot say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface_worlds.shapes.concepts import FACTORS, OBJECTS, concept, index_of
from efface_worlds.shapes.drawing import SIZE
from efface_worlds.shapes.networks import JudgeNetwork
from efface_worlds.shapes.scenes import NONE, Scenes

NOTHING = len(OBJECTS)
"""Label of "none" among the objects of a verdict."""

_BATCH = 256
_SURE = {"object": 0.5, "colour": 2 / 3, "style": 2 / 3, "background": 0.5}
"""How likely a value must be to be said. Some small objects look the same flat and in outline: then it is neither."""


@dataclass(frozen=True)
class Verdict:
    """Probabilities for n images, at two places each: the left object and the right one; of one object the first.

    Attributes:
        object: Each object, then "none", `(n, 2, 11)`.
        colour: `(n, 2, 8)`; means nothing where there is no object.
        style: `(n, 2, 6)`; the same.
        background: `(n, 6)`.
        domain: That the image is of the kind that the judge knows, `(n,)`.
    """

    object: Tensor
    colour: Tensor
    style: Tensor
    background: Tensor
    domain: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.object)

    @property
    def there(self) -> Tensor:
        """Whether there is an object at each place, `(n, 2)`."""
        return self.object[..., NOTHING] < 0.5

    @property
    def count(self) -> Tensor:
        """Number of objects, `(n,)`: 0 to 2. Means nothing where the judge cannot say."""
        return self.there.sum(1)

    @property
    def known(self) -> Tensor:
        """Whether the judge can say anything of each image, `(n,)`.

        It cannot where the image is rather not of its kind, or where at one of the places neither any of the objects,
        nor that there is none, is likelier than all else.
        """
        return (self.domain >= 0.5) & (self.object.amax(-1) >= _SURE["object"]).all(1)

    def shows(self, *names: str) -> Tensor:
        """Whether each image shows a concept: 1, 0, or NaN where the judge cannot say, `(n,)`.

        It cannot where it does not know the image, or no value of the factor is likely enough: over a half, for colours
        and styles two thirds.
        Several names are asked of one object: `shows("red", "star")` is 0 for a red circle and a blue star.

        Raises:
            InputError: If no concept is called that, or no name is given.
        """
        if not names:
            raise InputError('shows() needs a name, or several of one object: write shows("red", "star")')
        yes, no = torch.ones_like(self.there), torch.zeros_like(self.there)
        for name in names:
            factor = concept(name).factor
            chances: Tensor = getattr(self, factor)
            there = torch.ones_like(self.there) if factor == "background" else self.there
            chances = chances[:, None] if factor == "background" else chances
            sure, own = chances.amax(-1) >= _SURE[factor], chances.argmax(-1) == index_of(name)
            yes, no = yes & there & sure & own, no | ~there | (sure & ~own)
        said = torch.where((yes | no).all(1) | yes.any(1), yes.any(1).float(), torch.nan)
        return torch.where(self.known, said, torch.nan)

    def agrees(self, scenes: Scenes) -> dict[str, Tensor]:
        """Whether each image shows what its scene says, by factor, `(n,)` each; not where the judge cannot say.

        `"object"`: these objects and no other, each as often. `"colour"`: of two objects each has its own, where the
        objects are right; otherwise all have a colour of the scene. `"style"`: all have it.
        """
        wanted = torch.where(scenes.objects != NONE, scenes.objects, NOTHING)
        found = self.object.argmax(-1)
        there, known = found != NOTHING, self.known & (found != NOTHING).any(1)
        same = (found.sort(1).values == wanted.sort(1).values).all(1)
        pairs = found * len(FACTORS["colour"]) + torch.where(there, self.colour.argmax(-1), 0)
        asked = wanted * len(FACTORS["colour"]) + torch.where(wanted != NOTHING, scenes.colours, 0)
        matched = (pairs.sort(1).values == asked.sort(1).values).all(1)
        tones = torch.where(wanted != NOTHING, scenes.colours, NONE)
        of_scene = (self.colour.argmax(-1)[..., None] == tones[:, None]).any(-1)
        return {
            "object": known & same,
            "colour": known & torch.where(same, matched, (of_scene | ~there).all(1)),
            "style": known & ((self.style.argmax(-1) == scenes.style[:, None]) | ~there).all(1),
            "background": self.known & (self.background.argmax(1) == scenes.background),
        }

    def words(self) -> list[str]:
        """What each image shows: "red flat star and blue flat ring on white", or "cannot say"."""
        names = {factor: [c.name for c in values] for factor, values in FACTORS.items()}
        best = {factor: getattr(self, factor).argmax(-1).tolist() for factor in FACTORS}
        there, known = self.there.tolist(), self.known.tolist()

        def said(i: int) -> str:
            order = ("colour", "style", "object")
            things = [
                " ".join(names[f][best[f][i][place]] for f in order)
                for place in range(2)
                if there[i][place] and best["object"][i][place] != NOTHING
            ]
            return f"{' and '.join(things) or 'nothing'} on {names['background'][best['background'][i]]}"

        return [said(i) if known[i] else "cannot say" for i in range(len(self))]


@dataclass(frozen=True)
class Judge:
    """A trained judge of images with no, one or two objects on a background of the shapes world.

    Its domain: renderings of this world, two objects left and right of each other, softened or through its autoencoder,
    and what its pipelines draw. On 4,000 renderings of one object and as many of two, either judge sees every concept
    in at least 97.7 % of those that show it and in at most 0.8 % of the others, and objects in the other one's colour
    in at most 0.2 %. Elsewhere it should answer that it cannot say, and does of broken images, halves and quarters of
    several glued together, three or four objects and noise in at least 96 % of 500 of each kind; of what the pipeline
    draws for plain prompts in 2 to 7 %. All figures, and of which kinds: `measured` in `weights/training.json`, and
    `python -m benchmarks.shapes judges`.

    Attributes:
        network: Either of the two networks, in eval mode.
    """

    calibration: ClassVar[str] = "renderings of the shapes world; figures in weights/training.json"

    network: JudgeNetwork

    def __call__(self, images: Tensor, name: str) -> Tensor:
        """Whether each image shows a concept, `(n,)`: 1, 0, or NaN where it cannot say.

        It is what `efface.audit.pipeline(..., judge=load_judge())` asks. `"red star"` asks for one object that is both.

        Raises:
            InputError: As `judge`, or if no concept is called that.
        """
        return self.judge(images).shows(*name.split())

    @torch.no_grad()
    def judge(self, images: Tensor) -> Verdict:
        """Probabilities for images `(n, 3, 32, 32)` in [0, 1].

        Does not guarantee: a sensible answer outside of the domain; that the judge says so of every such image.

        Raises:
            InputError: If the images have another shape or are not in [0, 1].
        """
        check_images(images)
        parts = [self.network(chunk.float()) for chunk in images.split(_BATCH)]
        logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Verdict(**{k: v.sigmoid() if k == "domain" else v.softmax(-1) for k, v in logits.items()})

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features `(n, 128)` of images `(n, 3, 32, 32)` in [0, 1], before the heads."""
        check_images(images)
        return torch.cat([self.network.features(chunk.float()) for chunk in images.split(_BATCH)])

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations from fine to coarse, each `(n, channels, height, width)`."""
        check_images(images)
        parts = [self.network.maps(chunk.float()) for chunk in images.split(_BATCH)]
        return [torch.cat(level) for level in zip(*parts, strict=True)]


def check_images(images: Tensor, name: str = "images", size: int = SIZE) -> None:
    """Refuse what is not a batch of RGB images of that size in [0, 1].

    Raises:
        InputError: If so; it says what to write instead.
    """
    if images.dim() != 4 or images.shape[1:] != (3, size, size):
        raise InputError(f"{name} of shape {tuple(images.shape)}: expected (n, 3, {size}, {size})")
    if not images.is_floating_point():
        raise InputError(f"{name} of dtype {images.dtype}: write {name}.float() / 255")
    if not len(images):
        raise InputError(f"no {name}: expected at least one")
    low, high = float(images.amin()), float(images.amax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(f"{name} between {low:.3g} and {high:.3g}: expected [0, 1], as output_type='pt' gives")
