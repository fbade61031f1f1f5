"""The judge: what an image shows, as calibrated probabilities of every factor; "none" when it shows no object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface._errors import InputError
from efface_worlds.shapes.concepts import FACTORS, OBJECTS, concept, index_of
from efface_worlds.shapes.drawing import SIZE
from efface_worlds.shapes.networks import JudgeNetwork
from efface_worlds.shapes.scenes import NONE, Scenes

NOTHING = len(OBJECTS)
"""Label of "none" among the objects of a verdict."""

_BATCH = 256


@dataclass(frozen=True)
class Verdict:
    """Probabilities for n images.

    Attributes:
        object: Each object, then "none", `(n, 11)`; meant for images of one object.
        colour: `(n, 8)`; of an image of one object.
        style: `(n, 6)`.
        background: `(n, 6)`.
        count: One object, two objects, `(n, 2)`.
        presence: Of each object by itself, `(n, 10)`; for images of two.
    """

    object: Tensor
    colour: Tensor
    style: Tensor
    background: Tensor
    count: Tensor
    presence: Tensor

    def __len__(self) -> int:
        return len(self.object)

    def shows(self, name: str) -> Tensor:
        """Whether each image shows a concept, `(n,)`: the likeliest value of its factor, and an object at all.

        Raises:
            InputError: If no concept is called that.
        """
        found = concept(name)
        likeliest = getattr(self, found.factor).argmax(1) == index_of(name)
        return likeliest if found.factor == "background" else likeliest & (self.object.argmax(1) != NOTHING)

    def agrees(self, scenes: Scenes) -> dict[str, Tensor]:
        """Whether each image shows what its scene says, by factor, `(n,)` each.

        For a scene of two objects, `"object"` says that exactly these two are present, and the colour is not judged.
        """
        two = scenes.objects[:, 1] != NONE
        single = self.object.argmax(1) == scenes.objects[:, 0]
        wanted = torch.zeros_like(self.presence, dtype=torch.bool)
        for column in scenes.objects.T:
            wanted[torch.arange(len(wanted)), column.clamp_min(0)] |= column != NONE
        both = ((self.presence > 0.5) == wanted).all(1)
        there = two | (self.object.argmax(1) != NOTHING)
        return {
            "object": torch.where(two, both, single),
            "colour": (self.colour.argmax(1) == scenes.colours[:, 0]) & there,
            "style": (self.style.argmax(1) == scenes.style) & there,
            "background": self.background.argmax(1) == scenes.background,
        }

    def words(self) -> list[dict[str, str]]:
        """The likeliest value of each factor, image by image."""
        names = {factor: [c.name for c in values] for factor, values in FACTORS.items()}
        names["object"].append("none")
        best = {factor: getattr(self, factor).argmax(1).tolist() for factor in FACTORS}
        return [{factor: names[factor][best[factor][i]] for factor in FACTORS} for i in range(len(self))]


@dataclass(frozen=True)
class Judge:
    """A trained judge.

    Attributes:
        network: Either of the two networks, in eval mode.
    """

    network: JudgeNetwork

    def __call__(self, images: Tensor, name: str) -> Tensor:
        """Whether each image shows a concept, `(n,)`: what `efface.audit.pipeline(..., judge=load_judge())` asks.

        Raises:
            InputError: As `judge`, or if no concept is called that.
        """
        return self.judge(images).shows(name)

    @torch.no_grad()
    def judge(self, images: Tensor) -> Verdict:
        """Probabilities for images `(n, 3, 32, 32)` in [0, 1].

        Does not guarantee: a sensible answer for images unlike renderings of this world and the corruptions of
        `efface_worlds.shapes.corruption`.

        Raises:
            InputError: If the images have another shape or are not in [0, 1].
        """
        check_images(images)
        parts = [self.network(chunk.float()) for chunk in images.split(_BATCH)]
        logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        chances = {k: v.sigmoid() if k == "presence" else v.softmax(1) for k, v in logits.items()}
        return Verdict(**chances)

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


def check_images(images: Tensor, name: str = "images") -> None:
    """Refuse what is not a batch of RGB images of 32 x 32 in [0, 1].

    Raises:
        InputError: If so; it says what to write instead.
    """
    if images.dim() != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise InputError(f"{name} of shape {tuple(images.shape)}: expected (n, 3, {SIZE}, {SIZE})")
    if not images.is_floating_point():
        raise InputError(f"{name} of dtype {images.dtype}: write {name}.float() / 255")
    if not len(images):
        raise InputError(f"no {name}: expected at least one")
    low, high = float(images.amin()), float(images.amax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(f"{name} between {low:.3g} and {high:.3g}: expected [0, 1], as output_type='pt' gives")


def from_pil(pictures: Sequence[object]) -> Tensor:
    """Pictures of PIL as images `(n, 3, 32, 32)` in [0, 1]."""
    import numpy as np

    arrays = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures]) / 255
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
