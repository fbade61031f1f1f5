"""What erasers of concepts leave and take in images of a world, a cell of a table each, kept as soon as it is drawn."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._studio import Studio, kept_by
from efface import Concept, erase, get_method
from efface.audit.pipelines.balance import harmonic
from efface.cli.generate import write_picture
from efface.stats.intervals import percentile_interval
from efface_worlds.shapes.metrics import frechet_distance, kernel_distance

OTHER_SEEDS, PLAIN = "other seeds", "nothing erased"
_DRAWS = 4000


@dataclass(frozen=True)
class Seen:
    """What judge 2 sees in the images of each word: shares of images.

    Attributes:
        erased: Of concepts, by name.
        reworded: In other words.
        near: Of siblings.
        told: Of words of SELECT's boundary.
        far: Of strangers.
        rest: Of the images of concepts, what else they were asked for.
        unsaid: Of these, where it cannot say what they show.
        kept: What judge 1 makes of the images of siblings and strangers, `(n, features)`.
        pictures: First image of each word, in this order: `(words, 3, h, w)`, bytes.
        cost: Seconds and bytes.
    """

    erased: NDArray[np.float64]
    reworded: NDArray[np.float64]
    near: NDArray[np.float64]
    told: NDArray[np.float64]
    far: NDArray[np.float64]
    rest: NDArray[np.float64]
    unsaid: NDArray[np.float64]
    kept: Tensor
    pictures: Tensor
    cost: dict[str, float] = field(default_factory=dict)

    def balance(self, of: NDArray[np.int64], near: NDArray[np.int64], far: NDArray[np.int64]) -> float:
        """H of the concepts, siblings and strangers with these numbers."""
        stays = [part[index].mean() for part, index in ((self.near, near), (self.far, far)) if len(part)]
        return float(harmonic(1 - self.erased[of].mean(), 1 - self.reworded[of].mean(), np.mean(stays)))

    @property
    def average(self) -> float:
        """H of all."""
        return self.balance(*(np.arange(len(part)) for part in (self.erased, self.near, self.far)))


def spread(seen: Seen, other: Seen | None = None) -> str:
    """H, or how much more it is than another's, with an interval over words, resampled alike for both.

    Where there are as many siblings and strangers as concepts, each goes with its concept.
    """
    generator = np.random.default_rng(0)
    sizes = [len(part) for part in (seen.erased, seen.near, seen.far)]

    def value(*at: NDArray[np.int64]) -> float:
        return seen.balance(*at) - (other.balance(*at) if other else 0.0)

    def draw() -> list[NDArray[np.int64]]:
        if len(set(sizes)) == 1:
            return [generator.integers(sizes[0], size=sizes[0])] * 3
        return [generator.integers(size, size=size) for size in sizes]

    found = percentile_interval(
        value(*(np.arange(size) for size in sizes)), [value(*draw()) for _ in range(_DRAWS)], "bootstrap"
    )
    ends = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.has_width else "(all alike)"
    return f"{100 * found.value:.1f} {ends}"


class Cells:
    """What was drawn, kept in a folder so that a run that is interrupted goes on.

    Args:
        folder: Where; None keeps nothing.
        of: What all cells depend on.
    """

    def __init__(self, folder: Path | None, of: object) -> None:
        self.folder, self.of = folder, of
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: Sequence[object], make: Callable[[], Any]) -> Any:
        """The cell of a key: read, or else made and written."""
        if self.folder is None:
            return make()
        text = repr((self.of, key))
        name = "".join(c if c.isalnum() else "-" for c in str(key[:4]))[:80]
        path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"
        if not path.exists():
            made = make()
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(made, part)
            part.rename(path)
        return torch.load(path, weights_only=False)

    def seen(self, key: Sequence[object], make: Callable[[], Seen]) -> Seen:
        """A cell of a table."""
        return Seen(**self.get(key, lambda: asdict(make())))

    def words(self, studio: Studio, names: Sequence[str]) -> None:
        """Have a studio know by which words the pipeline draws these concepts."""

        def tried(name: str) -> dict[tuple[str, str], bool]:
            studio.words_of(name)
            return {key: drawn for key, drawn in studio.drawn.items() if key[0] == name}

        for name in names:
            studio.drawn |= self.get(("words", name), lambda name=name: tried(name))

    def picture(self, name: str, rows: Sequence[tuple[str, Tensor]]) -> None:
        """Rows of images as a file beside the cells."""
        if self.folder is not None:
            write_picture(self.folder / f"{name}.png", [(text, x.float() / 255) for text, x in rows])


@dataclass(frozen=True)
class Asked:
    """The words of a cell."""

    names: Sequence[str]
    near: Sequence[str]
    told: Sequence[str]
    far: Sequence[str]


def drawn(studio: Studio, sample: Any, asked: Asked, images: int, first_seed: int = 0, **cost: float) -> Seen:
    """What is seen of some concepts, and of others, in so many images each; they are drawn together."""
    names = asked.names
    beside = (*asked.near, *asked.told, *asked.far)
    texts = [(word, studio.prompts_of(word, images)) for word in names]
    texts += [(word, studio.paraphrases_of(word, images)) for word in names]
    texts += [(word, studio.prompts_of(word, images)) for word in beside]
    prompts = [text for _, some in texts for text in some]
    pictures = sample(prompts, [*range(first_seed, first_seed + images)] * len(texts)).split(images)
    judge, n = studio.judge(2), len(names)
    said = [judge(each, word) for each, (word, _) in zip(pictures, texts, strict=True)]
    seen = np.array([float(each.nan_to_num(0.0).mean()) for each in said])
    scenes = [studio.asked_of(name, images).scenes for name in names]
    told = zip(pictures, scenes, names, strict=False)  # of the first n pictures
    rest = [kept_by(studio.world, judge.judge(each), asked_for, name) for each, asked_for, name in told]
    unsaid = [float(each.isnan().float().mean()) for each in said[:n]]
    of, reworded, near, by, far = np.split(seen, np.cumsum([n, n, len(asked.near), len(asked.told)]))
    kept = studio.judge(1).features(torch.cat(pictures[2 * n :]))
    first = (torch.stack([each[0] for each in pictures]).clamp(0, 1) * 255).round().byte()
    return Seen(of, reworded, near, by, far, np.array(rest), np.array(unsaid), kept, first, dict(cost))


def fitted(studio: Studio, concepts: Concept | Sequence[Concept], method: str) -> Any:
    """An erasure by a method, "mace@adapters=false" with options."""
    name, _, given = method.partition("@")
    texts = given.split("+") if given else []
    return erase(studio.view, concepts, name, **get_method(name, "pipeline").config.parse(texts, method=name))


def making(
    studio: Studio, concepts: Concept | Sequence[Concept], method: str, asked: Asked, images: int
) -> Callable[[], Seen]:
    def make() -> Seen:
        start = time.process_time()
        erasure = fitted(studio, concepts, method)
        cost = {"seconds": time.process_time() - start, "bytes": erasure.nbytes}
        return drawn(studio, studio.erased(erasure), asked, images, **cost)

    return make


def bases(images: int, distance: bool) -> list[tuple[str, int]]:
    """What is drawn without an erasure, and from which seed on."""
    return [*([(OTHER_SEEDS, images)] if distance else []), (PLAIN, 0)]


HEADER = ("anchor", "ACC_e", "ACC_g", "near", "boundary", "far", "H", "leaves", "rest kept", "FID of kept", "KID")


def shares(seen: Seen, other: Seen | None) -> list[str]:
    parts = (seen.erased, seen.reworded, seen.near, seen.told, seen.far)
    means = [f"{100 * part.mean():.1f}" if len(part) else "" for part in parts]
    left = 100 * (seen.erased + seen.unsaid).mean()
    distances = ["", ""]
    if other is not None:
        kernel = kernel_distance(seen.kept, other.kept)
        distances = [f"{frechet_distance(seen.kept, other.kept):.0f}", f"{kernel:.3g}"]
    return [*means, spread(seen), f"{left:.1f}", f"{100 * seen.rest.mean():.0f}", *distances]
