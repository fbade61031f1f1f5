"""Visual feedback: what a detector sees in pictures of a first pass, and a second pass for these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.run import Run
from efface.pipelines.embedding import PromptEmbedding

Detector = Callable[[Tensor, str], Any]
"""Images `(n, 3, h, w)` and a word -> whether each shows it, `(n,)` booleans or probabilities."""


def seen_by(
    detector: Detector, images: Tensor, names: Sequence[str], seen_from: float = 0.5, trust: float = 1.0
) -> list[dict[str, float]]:
    """For each picture, the concepts that a detector sees in it, with how surely.

    Args:
        detector: Who looks; NaN is that it cannot say, which is nothing seen.
        images: `(n, 3, height, width)`.
        names: What for.
        seen_from: How sure the detector must be.
        trust: What its certainty is multiplied by.

    Raises:
        InputError: If the detector fails, or returns something else than one value in [0, 1] a picture.

    >>> seen_by(lambda images, name: torch.tensor([0.9, 0.1]), torch.zeros(2, 3, 4, 4), ["star"])
    [{'star': 0.8999999761581421}, {}]
    """
    seen: list[dict[str, float]] = [{} for _ in images]
    for name in names:
        try:
            found = torch.as_tensor(detector(images, name)).detach().float().cpu()
        except Exception as error:
            raise InputError(f"the detector failed on {len(images)} pictures asked for {name!r}: {error}") from error
        if found.shape != (len(images),) or bool(((found < 0) | (found > 1)).any()):
            raise InputError(
                f"the detector gave {tuple(found.shape)} for {len(images)} pictures: expected one value in 0 to 1 each"
            )
        for i, sure in enumerate(found.tolist()):
            if sure >= seen_from:
                seen[i][name] = trust * sure
    return seen


class Operating(Protocol):
    """An erasure of prompts that can be told what was seen in their pictures."""

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts."""
        ...

    def edited(
        self, embedding: PromptEmbedding, run: Run, *, seen: Sequence[Mapping[str, float]] | None = None
    ) -> PromptEmbedding:
        """Prompts after the erasure."""
        ...


def look_again(
    erasure: Operating,
    run: Run,
    prompts: Sequence[str],
    seeds: Sequence[int],
    images: Tensor,
    detector: Detector,
    *,
    seen_from: float = 0.5,
    trust: float = 1.0,
    **sampling: Any,
) -> Tensor:
    """New pictures where a detector sees a concept, from the original embedding and the same seed; the others stay.

    Args:
        erasure: What erased the concept.
        run: Of the pipeline, without the erasure on it.
        prompts: n prompts.
        seeds: The pictures' seeds.
        images: Pictures of the first pass, `(n, 3, height, width)`.
        detector: Who looks.
        seen_from: How sure the detector must be.
        trust: What its certainty is multiplied by.
        **sampling: Further arguments of `PipelineView.sample`.

    Does not guarantee: that the second picture is free of it; nobody looks a third time.
    """
    seen = seen_by(detector, images, erasure.names, seen_from, trust)
    again = [i for i, found in enumerate(seen) if found]
    run.count("second passes", len(again))
    if not again:
        return images
    part = run.view.encode([prompts[i] for i in again])
    operated = erasure.edited(part, run, seen=[seen[i] for i in again])
    images = images.clone()
    images[again] = run.view.sample(operated, [seeds[i] for i in again], **sampling)
    return images
