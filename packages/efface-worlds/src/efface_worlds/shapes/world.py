"""The shapes world as data: images with captions and factors, and prompts about a concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int
from efface_worlds.shapes.captions import Reader, caption
from efface_worlds.shapes.concepts import FACTORS, concept, index_of
from efface_worlds.shapes.drawing import render
from efface_worlds.shapes.scenes import NONE, Scenes, is_held_out, sample_scenes

Split = Literal["train", "test", "held_out"]
_OFFSETS = {"train": 0, "test": 1 << 40, "held_out": 2 << 40}


@dataclass(frozen=True)
class ShapesWorld:
    """Captioned images whose every factor is known.

    Attributes:
        images: `(n, 3, 32, 32)` in [0, 1].
        captions: One an image.
        scenes: The factors, as labels.
    """

    images: Tensor
    captions: list[str]
    scenes: Scenes

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class Prompts:
    """Prompts that name every factor of a scene of one object.

    Attributes:
        texts: The prompts.
        scenes: What each of them asks for.
    """

    texts: list[str]
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.texts)


def make_shapes(
    n: int,
    *,
    seed: int,
    split: Split = "train",
    without: Sequence[str] = (),
    two_objects: float = 0.12,
    balanced: bool = False,
) -> ShapesWorld:
    """Make captioned images; the same arguments give the same bits.

    Args:
        n: How many.
        seed: Of scenes and captions.
        split: `"train"`: templates and words that the denoiser reads, and no combination of object, colour and style
            that is held out. `"test"`: other templates, all synonyms, all combinations. `"held_out"`: as `"test"`,
            and held-out combinations alone.
        without: Concepts that never occur.
        two_objects: Share of scenes with two objects.
        balanced: Draw rare concepts as often as others.

    Raises:
        InputError: If n is not positive, the seed is negative, or a word is unknown.

    >>> world = make_shapes(3, seed=0)
    >>> world.images.shape
    torch.Size([3, 3, 32, 32])
    """
    if split not in _OFFSETS:
        raise InputError(f"split={split!r}: write one of {', '.join(map(repr, _OFFSETS))}")
    if not 0 <= seed < 1 << 40:
        raise InputError(f"seed={seed}: write a number from 0 to 2**40 - 1")
    check_positive_int(n, "n")
    generator = torch.Generator().manual_seed(seed + _OFFSETS[split])
    options = {"generator": generator, "without": without, "two_objects": two_objects, "balanced": balanced}
    if split == "held_out":
        scenes = sample_scenes(32 * n + 64, **options)
        scenes = scenes[scenes.held_out.nonzero()[:n, 0]]
    else:
        scenes = sample_scenes(n, held_out=split == "test", **options)
    captions = caption(scenes, reader="train" if split == "train" else "held_out", seed=seed + _OFFSETS[split])
    return ShapesWorld(render(scenes), captions, scenes)


def prompts_for(
    name: str | None = None,
    n: int = 1,
    *,
    seed: int = 0,
    templates: Reader = "plain",
    synonyms: bool = False,
    held_out: bool = True,
) -> Prompts:
    """Prompts about a concept, with the other factors drawn evenly.

    Args:
        name: The concept; `None` draws every factor evenly.
        n: How many prompts.
        seed: Of the other factors and of the wording.
        templates: `"plain"`: "a red striped circle on a white background". `"train"`: as the denoiser read them;
            these may leave factors out. `"held_out"`: templates that nothing was trained on. `"joined"`: more of
            these, in which "and" joins attributes; the pipeline draws two objects.
        synonyms: Whether other words than the concepts' names may occur; in `"held_out"` also those that only the
            text encoder knows.
        held_out: Whether combinations that training left out may be asked for.

    Raises:
        InputError: If n is not positive, or a word is unknown.

    >>> prompts_for("ring", 1, seed=1).texts[0].count("ring")
    1
    """
    check_positive_int(n, "n")
    if templates not in get_args(Reader):
        raise InputError(f"templates={templates!r}: write 'plain', 'train', 'held_out' or 'joined'")
    generator = torch.Generator().manual_seed(seed)
    # Three times as many as are needed: one in sixteen is held out.
    scenes = sample_scenes(3 * n + 16, generator=generator, two_objects=0.0, balanced=True)
    if name is not None:
        column = {"object": scenes.objects, "colour": scenes.colours}
        factor = concept(name).factor
        if factor in column:
            column[factor][:, 0] = index_of(name)
        else:
            (scenes.style if factor == "style" else scenes.background)[:] = index_of(name)
    if not held_out:
        scenes = scenes[~is_held_out(scenes.objects[:, 0], scenes.colours[:, 0], scenes.style)]
    scenes = scenes[:n]
    return Prompts(caption(scenes, reader=templates, seed=seed, synonyms=synonyms), scenes)


def labels_of(scenes: Scenes, factor: str) -> Tensor:
    """Label of the first object, its colour, the style or the background, `(n,)`.

    Raises:
        InputError: If there is no such factor.
    """
    if factor not in FACTORS:
        raise InputError(f"factor={factor!r}: write one of {', '.join(FACTORS)}")
    columns = {"object": scenes.objects[:, 0], "colour": scenes.colours[:, 0]}
    return columns.get(factor, scenes.style if factor == "style" else scenes.background)


def shows(scenes: Scenes, name: str) -> Tensor:
    """Whether each scene shows a concept, `(n,)`."""
    label, factor = index_of(name), concept(name).factor
    if factor == "object":
        return (scenes.objects == label).any(1)
    if factor == "colour":
        return ((scenes.colours == label) & (scenes.objects != NONE)).any(1)
    return labels_of(scenes, factor) == label
