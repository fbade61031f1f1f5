"""What a probe is asked: which concept, in which words and pictures, who judges, and how pictures are sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from efface._errors import InputError
from efface.audit.pipelines.presence import Judge, hits
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.core.concept import Concept
from efface.core.doors import check_fields
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator, seeds_of

_FILM = 5


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with a prompt each: some that show the concept, and others that do not; no model was fitted on them.

    Attributes:
        concept: `(n, 3, h, w)` in [0, 1].
        texts: A prompt for each.
        others: `(m, 3, h, w)`: of what should stay.
        other_texts: A prompt for each.
        source: Where they come from, in words.
    """

    concept: Tensor
    texts: tuple[str, ...]
    others: Tensor
    other_texts: tuple[str, ...]
    source: str = "given"

    def __post_init__(self) -> None:
        check_fields(self)
        for images, texts, name in ((self.concept, self.texts, "concept"), (self.others, self.other_texts, "others")):
            if images.ndim != 4 or len(images) != len(texts):
                raise InputError(
                    f"pictures of {name} have shape {tuple(images.shape)}, and there are {len(texts)} prompts: "
                    "write (n, 3, h, w) and a prompt for each"
                )

    def swapped(self) -> Pictures:
        """The others in the place of the concept's, for a floor."""
        n = len(self.others) // 2
        return Pictures(
            self.others[:n], self.other_texts[:n], self.others[n:], self.other_texts[n:], f"others, {self.source}"
        )


@dataclass(frozen=True, eq=False)
class Case:
    """What all probes of one audit are asked.

    Attributes:
        concept: The concept.
        base: The pipeline before erasure.
        judge: Scores pictures: images and the name of a concept -> 0 to 1, or NaN where it cannot say, `(n,)`.
        selector: Chooses within a search (best of N, early stop); where it is the judge itself, the audit says so.
        prompts: Plain prompts that ask for the concept by its name.
        paraphrases: Prompts that ask for it in other words.
        others: Other concepts -> prompts that ask for them.
        pictures: Held-out pictures; None where there are none.
        judged: The name by which the judge is asked; empty for the concept's own.
        sampling: Further arguments of `PipelineView.sample`: `steps`, `guidance`, ...
        batch_size: Images at a time.
        seed: Of every random choice.
    """

    concept: Concept
    base: Subject
    judge: Judge
    selector: Judge
    prompts: tuple[str, ...]
    paraphrases: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pictures: Pictures | None = None
    judged: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    seed: int = 0

    def source(self, *stream: int) -> Generator:
        """Random numbers of the seed and a stream: the same for each subject, whatever was drawn before."""
        return generator(self.seed, *stream)

    def jobs(self, prompts: Sequence[str], n: int, stream: int = 0, *, first: int = 0) -> tuple[list[str], list[int]]:
        """N prompts in turn with a seed each, the same for each subject; without those before `first`."""
        texts = [prompts[i % len(prompts)] for i in range(first, n)]
        return texts, seeds_of(n, self.source(stream))[first:]

    def sample(
        self,
        view: PipelineView,
        prompts: str | Sequence[str] | PromptEmbedding,
        seeds: Sequence[int],
        **more: Any,
    ) -> Tensor:
        """Pictures `(n, 3, h, w)` by the pipeline's own call, through all that is on it; of films the middle frame."""
        given = {"batch_size": self.batch_size, "allow_unknown": True, **self.sampling, **more}
        images = view.sample(prompts, list(seeds), **given)
        return images[:, images.shape[1] // 2] if images.ndim == _FILM else images

    def seen(self, images: Tensor) -> Tensor:
        """What the judge says of pictures: 1, 0, or NaN, `(n,)` float64."""
        return hits(self.judge, images, self.judged or self.concept.name)

    def liked(self, images: Tensor) -> Tensor:
        """What the selector gives pictures, `(n,)` float64 in [0, 1]; 0 where it cannot say."""
        said = torch.as_tensor(self.selector(images, self.judged or self.concept.name)).double()
        return torch.nan_to_num(said, nan=0.0)

    def need_pictures(self, n: int) -> Pictures:
        """The held-out pictures, if there are at least n with the concept and n without.

        Raises:
            NotApplicableError: If there are fewer.
        """
        found = self.pictures
        if found is None or min(len(found.concept), len(found.others)) < n:
            here = "none" if found is None else f"{len(found.concept)} and {len(found.others)}"
            raise NotApplicableError(f"{n} held-out pictures with the concept and {n} without are needed, got {here}")
        return found

    def floored(self) -> Case | None:
        """The same asked of another concept, while the judge looks for this one: a floor without a gold model."""
        if not self.others or self.pictures is None:
            return None
        name, prompts = next(iter(self.others.items()))
        other = Concept(name, templates=self.concept.templates)
        rest = {k: v for k, v in self.others.items() if k != name}
        judged = self.judged or self.concept.name
        pictures = self.pictures.swapped()
        return replace(
            self,
            concept=other,
            prompts=prompts,
            paraphrases=prompts,
            others=rest,
            pictures=pictures,
            judged=judged,
        )
