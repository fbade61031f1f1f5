"""The emoji world as data: prompts about a concept, and what scenes show."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int, did_you_mean
from efface_worlds.emoji.captions import Reader, caption
from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, FACTORS, STYLES, TONES, concept, left_out, named_by
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes


@dataclass(frozen=True)
class Prompts:
    """Prompts about scenes of one object.

    Attributes:
        texts: The prompts.
        scenes: What each of them asks for.
    """

    texts: list[str]
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.texts)


def prompts_for(
    name: str | None = None,
    n: int = 1,
    *,
    seed: int = 0,
    templates: Reader = "plain",
    synonyms: bool = False,
) -> Prompts:
    """Prompts about a concept, with the other factors drawn evenly; skin tones are told where they are asked for alone.

    Of several concepts, those that the pipeline does not draw (`left_out`) are never asked for; one that is named is,
    with a warning.

    Args:
        name: A concept, or a subgroup, group or profession, of whose concepts each prompt has one; `None` draws every
            factor evenly.
        n: How many prompts.
        seed: Of the other factors and of the wording.
        templates: `"plain"`: "a cat in noto style on a blue background". `"train"`: as the denoiser read them; these
            may leave style and background out. `"held_out"`: how people say it otherwise, in templates that nothing
            was trained on: in other orders, in the plural, with adjectives, late in a long prompt.
        synonyms: Whether other words than the concepts' names may occur; in `"held_out"` also those that training
            never reads.

    Raises:
        InputError: If n is not positive, or a word is unknown.

    >>> prompts_for("cat", 1).texts[0].startswith("a cat in")
    True
    """
    check_positive_int(n, "n")
    if templates not in (readers := get_args(Reader)):
        raise InputError(
            f"templates={templates!r}{did_you_mean(str(templates), readers)}: write {', '.join(map(repr, readers))}"
        )
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(n, generator=generator, two_objects=0.0, small=0.0, balanced=True, without=tuple(left_out()))
    scenes = replace(scenes, tones=torch.full_like(scenes.tones, NONE))
    if name is not None:
        scenes = _about(scenes, name, generator)
    return Prompts(caption(scenes, reader=templates, seed=seed, synonyms=synonyms), scenes)


def labels_of(scenes: Scenes, factor: str) -> Tensor:
    """Label of the first object, its skin tone, the style or the background, `(n,)`.

    Raises:
        InputError: If there is no such factor.
    """
    columns = {"object": scenes.objects[:, 0], "tone": scenes.tones[:, 0]}
    columns |= {"style": scenes.style, "background": scenes.background}
    if factor not in columns:
        raise InputError(f"factor={factor!r}{did_you_mean(factor, FACTORS)}: write one of {', '.join(FACTORS)}")
    return columns[factor]


def shows(scenes: Scenes, name: str) -> Tensor:
    """Whether each scene shows what is called so, `(n,)`; see `named_by`.

    Raises:
        InputError: If nothing is called that.
    """
    meant = set(named_by(name))
    found = torch.zeros(len(scenes), dtype=torch.bool)
    for values, labels in (
        (CONCEPTS, scenes.objects),
        (TONES, scenes.tones),
        (STYLES, scenes.style[:, None]),
        (BACKGROUNDS, scenes.background[:, None]),
    ):
        which = torch.tensor([i for i, value in enumerate(values) if value.name in meant], dtype=torch.long)
        found |= (torch.isin(labels, which) & (labels != NONE)).any(1)
    return found


def _about(scenes: Scenes, name: str, generator: torch.Generator) -> Scenes:
    """The same scenes, with one of the concepts that are called so in each."""
    names = named_by(name)
    out = left_out()
    if drawn_well := tuple(each for each in names if each not in out):
        names = drawn_well
    elif out:
        warnings.warn(f"{name!r} is hardly drawn by the pipeline that ships: {out[names[0]]}", stacklevel=3)
    factor = concept(names[0]).factor
    labels = torch.tensor([i for i, value in enumerate(FACTORS[factor]) if value.name in names])
    drawn = _drawn(labels, len(scenes), generator)
    if factor == "object":
        return replace(scenes, objects=torch.stack([drawn, scenes.objects[:, 1]], 1))
    if factor != "tone":
        return replace(scenes, **{factor: drawn})
    people = torch.tensor([i for i, value in enumerate(CONCEPTS) if value.profession])
    toned = torch.tensor([i for i, value in enumerate(STYLES) if value.name != "black and white"])
    objects = torch.stack([_drawn(people, len(scenes), generator), scenes.objects[:, 1]], 1)
    tones = torch.stack([drawn, torch.full_like(drawn, NONE)], 1)
    return replace(scenes, objects=objects, tones=tones, style=_drawn(toned, len(scenes), generator))


def _drawn(labels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return labels[torch.randint(0, len(labels), (n,), generator=generator)]
