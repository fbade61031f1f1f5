"""Arms of pictures: what is drawn of a pipeline, what a judge says of it, and how an arm is kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._io import load_folder, save_folder
from efface._validate import check_finite, to_tensor
from efface.audit.pipelines.pipeline import as_view
from efface.audit.pipelines.presence import Judge, hits
from efface.audit.remembrance.interference import CANNOT_SAY
from efface.core.codec import fields_of
from efface.core.edits import OnText

Names = Callable[[Tensor], Sequence[str]]
"""Images `(n, 3, h, w)` -> what each shows most clearly, by name; `""` for nothing."""
_TYPE, _FILM = "PicturedArm", 5


@dataclass(frozen=True, eq=False)
class Case:
    """What is drawn, and how: the same for all arms.

    Attributes:
        view: The pipeline.
        entities: Who or what is asked for.
        place: Which of them each picture is of, `(n,)`.
        query: Which prompt of it.
        turn: Which seed of that prompt.
        prompts: The prompts, `n`.
        judge: Who decides.
        names: What images show; None asks nobody.
        batch_size: Images at a time.
        sampling: Further arguments of `PipelineView.sample`.
    """

    view: Any
    entities: tuple[str, ...]
    place: NDArray[np.int64]
    query: NDArray[np.int64]
    turn: NDArray[np.int64]
    prompts: tuple[str, ...]
    judge: Judge
    names: Names | None
    batch_size: int
    sampling: Mapping[str, Any]

    def drawn(self, places: NDArray[np.int64], seeds: NDArray[np.int64]) -> Tensor:
        """Some of the pictures, `(m, 3, h, w)` in [0, 1]; of films the middle frame."""
        prompts = [self.prompts[i] for i in places]
        given = {"batch_size": self.batch_size, "allow_unknown": True, **self.sampling}
        found = to_tensor(self.view.sample(prompts, seeds[places].tolist(), **given), "the pictures")
        images = found.detach().cpu().float()
        check_finite(images, "the pictures")
        return images[:, images.shape[1] // 2] if images.ndim == _FILM else images

    def texts(self) -> dict[str, Any]:
        """Each prompt as it is encoded now."""
        texts = list(dict.fromkeys(self.prompts))
        parts = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        found = {}
        for part in parts:
            encoded = self.view.encode(part, allow_unknown=True)
            found |= {text: encoded[i] for i, text in enumerate(part)}
        return found

    def judged(self, images: Tensor, places: NDArray[np.int64]) -> NDArray[np.int8]:
        """1, 0, or -1 of each picture, about whom its prompt asks for."""
        said = np.empty(len(places), dtype=np.int8)
        for entity in np.unique(self.place[places]):
            own = np.flatnonzero(self.place[places] == entity)
            found = hits(self.judge, images[own], self.entities[entity]).nan_to_num(CANNOT_SAY)
            said[own] = found.numpy().astype(np.int8)
        return said

    def named(self, images: Tensor) -> list[str]:
        """What each picture shows.

        Raises:
            InputError: If there is not one name for each.
        """
        found = [""] * len(images) if self.names is None else list(self.names(images))
        if len(found) != len(images) or not all(isinstance(name, str) for name in found):
            raise InputError(f"names gave {len(found)} values for {len(images)} images: give one text for each")
        return found


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm.

    Attributes:
        seen: 1, 0, or -1 where the judge cannot say, `(n,)`.
        shown: What each picture shows.
        pictures: The pictures as bytes, `(n, 3, h, w)`; None where they are not kept.
    """

    seen: NDArray[np.int8]
    shown: tuple[str, ...]
    pictures: Tensor | None = None

    def save(self, folder: Path, *, name: str) -> None:
        """Write it into a folder."""
        tensors = {"seen": torch.from_numpy(self.seen)}
        tensors |= {} if self.pictures is None else {"pictures": self.pictures.contiguous()}
        save_folder(folder, {"type": _TYPE, "name": name, "shown": list(self.shown)}, tensors)

    @classmethod
    def load(cls, folder: Path) -> Arm:
        """Read what `save` wrote."""
        config, tensors = load_folder(folder, expect=_TYPE)
        (names,) = fields_of(config, shown=list[str])
        return cls(tensors["seen"].numpy(), tuple(names), tensors.get("pictures"))


def draw_arm(case: Case, system: Any, seeds: NDArray[np.int64], *, before: Arm | None, keep: bool) -> Arm:
    """Draw and judge one arm.

    Args:
        case: What is drawn.
        system: None for the pipeline as it is; an erasure, a pipeline, or a function that gives one of them.
        seeds: Seed of each picture.
        before: The arm from the same noise without an erasure, whose pictures are taken where nothing is changed.
        keep: Whether to keep pictures.
    """
    found = system() if _is_maker(system) else system
    if not _is_erasure(found):
        own = case if found is None else replace(case, view=as_view(found))
        return _joined(case, own, np.arange(len(seeds)), seeds, None, keep)
    plain = case.texts() if before is not None and _is_of_text(found) else None
    with found.on(case.view):
        changed = np.arange(len(seeds))
        if plain is not None:
            same = {text: _same(plain[text], after) for text, after in case.texts().items()}
            changed = np.flatnonzero([not same[text] for text in case.prompts])
        return _joined(case, case, changed, seeds, before, keep)


def _joined(
    case: Case, own: Case, places: NDArray[np.int64], seeds: NDArray[np.int64], before: Arm | None, keep: bool
) -> Arm:
    """Some pictures drawn anew, and of the rest what was before."""
    n = len(seeds)
    seen = np.full(n, CANNOT_SAY, dtype=np.int8) if before is None else before.seen.copy()
    names = [""] * n if before is None else list(before.shown)
    pictures = None if before is None or before.pictures is None else before.pictures.clone()
    for part in np.split(places, range(case.batch_size, len(places), case.batch_size)):
        if not len(part):  # nothing is changed
            continue
        images = own.drawn(part, seeds)
        seen[part] = case.judged(images, part)
        for place, name in zip(part, case.named(images), strict=True):
            names[place] = name
        if keep:
            bits = (255 * images).round().clamp(0, 255).byte()
            pictures = torch.zeros(n, *bits.shape[1:], dtype=torch.uint8) if pictures is None else pictures
            pictures[torch.from_numpy(part)] = bits
    return Arm(seen, tuple(names), pictures if keep else None)


def _is_erasure(system: Any) -> bool:
    return hasattr(system, "on")


def _is_maker(system: Any) -> bool:
    """Whether it is a function that gives an erasure or a pipeline; pipelines can be called, too."""
    return callable(system) and not _is_erasure(system) and not hasattr(system, "components")


def _is_of_text(erasure: Any) -> bool:
    """Whether all that it does is to edit what prompts are encoded to."""
    edits = getattr(erasure, "edits", ())
    return bool(edits) and all(isinstance(edit, OnText) for edit in edits)


def _same(one: Any, other: Any) -> bool:
    """Whether two embeddings are equal bit for bit, in each of their tensors."""
    theirs = other.tensors()
    return all(torch.equal(value, theirs[role]) for role, value in one.tensors().items())
