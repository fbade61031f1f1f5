"""The judge: what a picture shows, object by object, as calibrated probabilities; or that it cannot say."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from efface._errors import InputError
from efface_worlds.emoji.concepts import CONCEPTS, FACTORS, concept, index_of, named_by, subgroups
from efface_worlds.emoji.networks import NOTHING, TONELESS, JudgeNetwork
from efface_worlds.emoji.scenes import NONE, SIZE, Scenes
from efface_worlds.shapes.judge import check_images

_BATCH = 128
SURE, UNLIKELY = 0.6, 0.2
"""How likely at least it must be that something is there to be said, and how likely at most to be denied.

Of three drawings that look the same, each is as likely as a third: then neither is said."""

KNOWN = 0.5
"""How likely a picture must be of the judge's kind, and one subgroup, or that there is nothing, at each place."""


@dataclass(frozen=True)
class Verdict:
    """Probabilities for n pictures, at two places each: the left object and the right one; of one object the first.

    Attributes:
        object: Each object, then "none", `(n, 2, 649)`.
        tone: Each skin tone, then "none", `(n, 2, 4)`; means nothing where there is no object.
        style: `(n, 4)`; means nothing where there is no object.
        background: `(n, 8)`.
        domain: That the picture is of the kind that the judge knows, `(n,)`.
    """

    object: Tensor
    tone: Tensor
    style: Tensor
    background: Tensor
    domain: Tensor

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, index: slice | Tensor) -> Verdict:
        return Verdict(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def there(self) -> Tensor:
        """Whether there is an object at each place, `(n, 2)`."""
        return self.object[..., NOTHING] < 0.5

    @property
    def count(self) -> Tensor:
        """Number of objects, `(n,)`: 0 to 2. Means nothing where the judge cannot say."""
        return self.there.sum(1)

    @property
    def subgroup(self) -> Tensor:
        """Probability of each subgroup, in the order of `subgroups()`, then of "none", `(n, 2, 51)`: a sum over it."""
        return self.object @ _membership()

    @property
    def known(self) -> Tensor:
        """Whether the judge can say anything of each picture, `(n,)`.

        It cannot where the picture is rather not of its kind, or where at one of the places neither any of the
        subgroups, nor that there is nothing, is likelier than all else.
        """
        return (self.domain >= KNOWN) & (self.subgroup.amax(-1) >= KNOWN).all(1)

    def chance(self, name: str) -> Tensor:
        """Probability at each place that what is there is called so: an object, a tone or a set of them, `(n, 2)`.

        Styles and backgrounds are the whole picture's; a style or a tone is nowhere where there is no object.
        """
        names = named_by(name)
        factor = concept(names[0]).factor
        own = torch.tensor([index_of(each) for each in names])
        chances: Tensor = getattr(self, factor)[..., own].sum(-1)
        whole = factor in ("style", "background")
        at = chances[:, None].expand(-1, 2) if whole else chances
        return at if factor in ("object", "background") else at * (1 - self.object[..., NOTHING])

    def shows(self, *names: str) -> Tensor:
        """Whether each picture shows a concept: 1, 0, or NaN where the judge cannot say, `(n,)`.

        A name is a concept's, style's, background's or skin tone's, or means several objects: a subgroup, a group,
        `"profession:cook"`. It cannot say where it does not know the picture, or where what is asked for is neither
        likely nor unlikely enough. Several names are asked of one object: `shows("twemoji", "cat")`,
        `shows("dark skin", "woman pilot")`.

        Raises:
            InputError: If nothing is called that, or no name is given.
        """
        if not names:
            raise InputError('shows() needs a name, or several of one object: write shows("twemoji", "cat")')
        chances = torch.stack([self.chance(name) for name in names])
        yes, no = (chances >= SURE).all(0), (chances <= UNLIKELY).any(0)
        said = torch.where(yes.any(1), 1.0, torch.where(no.all(1), 0.0, torch.nan))
        return torch.where(self.known, said, torch.nan)

    def agrees(self, scenes: Scenes) -> dict[str, Tensor]:
        """Whether each picture shows what its scene says, by factor, `(n,)` each; not where the judge cannot say.

        `"object"`: these objects and no other, each as often. `"subgroup"`: objects of these subgroups. `"tone"`: these
        skin tones where the objects are right, else any. `"style"`, `"background"`: these.
        """
        wanted = torch.where(scenes.objects != NONE, scenes.objects, NOTHING)
        found = self.object.argmax(-1)
        there, known = found != NOTHING, self.known & (found != NOTHING).any(1)
        same = _alike(found, wanted)
        near = _alike(self.subgroup.argmax(-1), subgroup_of(wanted))
        tones = torch.where(scenes.tones != NONE, scenes.tones, TONELESS)
        own, asked = (o * (TONELESS + 1) + t for o, t in ((found, self.tone.argmax(-1) * there), (wanted, tones)))
        asked = torch.where(wanted != NOTHING, asked, wanted * (TONELESS + 1))
        return {
            "object": known & same,
            "subgroup": known & near,
            "tone": known & (_alike(own, asked) | ~same),
            "style": known & (self.style.argmax(1) == scenes.style),
            "background": self.known & (self.background.argmax(1) == scenes.background),
        }

    def words(self) -> list[str]:
        """What each picture shows: "dark skin pilot and dog, twemoji, on white", or "cannot say"."""
        names = {factor: [c.name for c in values] for factor, values in FACTORS.items()}
        best = {factor: getattr(self, factor).argmax(-1).tolist() for factor in FACTORS}
        known = self.known.tolist()

        def thing(i: int, place: int) -> str:
            tone = best["tone"][i][place]
            return f"{'' if tone == TONELESS else names['tone'][tone] + ' '}{names['object'][best['object'][i][place]]}"

        def said(i: int) -> str:
            ground = f"on {names['background'][best['background'][i]]}"
            things = [thing(i, place) for place in range(2) if best["object"][i][place] != NOTHING]
            style = names["style"][best["style"][i]]
            return f"{' and '.join(things)}, {style}, {ground}" if things else f"nothing {ground}"

        return [said(i) if known[i] else "cannot say" for i in range(len(self))]


@dataclass(frozen=True)
class Judge:
    """A trained judge of pictures with no, one or two emoji on a plain background of the emoji world.

    Its domain: renderings of this world, two objects left and right of each other, softened or through its autoencoder,
    and what its pipelines draw. Elsewhere it should answer that it cannot say; how often it does, and how often it is
    right inside, by style and size, stands under `measured` in `weights/training.json`, and what it confuses in
    `weights/confusions.json`.

    Attributes:
        network: Either of the two networks, in eval mode.
    """

    calibration: ClassVar[str] = "renderings of the emoji world; figures in weights/training.json"

    network: JudgeNetwork

    def __call__(self, images: Tensor, name: str) -> Tensor:
        """Whether each picture shows a concept, `(n,)`: 1, 0, or NaN where it cannot say.

        It is what `efface.audit.pipeline(..., judge=load_judge())` asks. `"twemoji cat"` asks for one object that is
        both.

        Raises:
            InputError: As `judge`, or if nothing is called that.
        """
        return self.judge(images).shows(*spoken(name))

    @torch.no_grad()
    def judge(self, images: Tensor) -> Verdict:
        """Probabilities for pictures `(n, 3, 48, 48)` in [0, 1].

        Does not guarantee: a sensible answer outside of the domain; that the judge says so of every such picture.

        Raises:
            InputError: If the pictures have another shape or are not in [0, 1].
        """
        check_images(images, size=SIZE)
        parts = [self.network(chunk.float()) for chunk in images.split(_BATCH)]
        logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Verdict(**{k: v.sigmoid() if k == "domain" else v.softmax(-1) for k, v in logits.items()})

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features `(n, 160)` of pictures `(n, 3, 48, 48)` in [0, 1], of the whole, before the heads."""
        check_images(images, size=SIZE)
        return torch.cat([self.network.features(chunk.float()) for chunk in images.split(_BATCH)])


def spoken(name: str) -> tuple[str, ...]:
    """The names that a phrase is made of, the longest first that is one: "black and white hot dog" has two.

    Raises:
        InputError: If there is a word in it that belongs to none.
    """
    words, found = name.split(), []
    while words:
        cut = next((k for k in range(len(words), 0, -1) if _is_name(" ".join(words[:k]))), None)
        if cut is None:
            named_by(" ".join(words) if found else name)  # says what is near
        found.append(" ".join(words[:cut]))
        words = words[cut:]
    return tuple(found) or named_by(name)


def _is_name(name: str) -> bool:
    try:
        named_by(name)
    except InputError:
        return False
    return True


def _alike(found: Tensor, wanted: Tensor) -> Tensor:
    """Whether two rows hold the same labels, whatever the order."""
    return (found.sort(1).values == wanted.sort(1).values).all(1)


def subgroup_of(objects: Tensor) -> Tensor:
    """Place of each object's subgroup among `subgroups()`; of `NOTHING` the place after them."""
    return _membership().argmax(-1)[objects]


@cache
def _membership() -> Tensor:
    """1 where an object, or "none", is of a subgroup, or "none", `(649, 51)`."""
    names = list(subgroups())
    kinds = torch.tensor([names.index(c.subgroup) for c in CONCEPTS] + [len(names)])
    return torch.nn.functional.one_hot(kinds).float()
