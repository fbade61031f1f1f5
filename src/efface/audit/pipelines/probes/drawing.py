"""Pictures of a concept where the caller has none: drawn by the base, kept where the selector agrees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.pipelines.probes.case import Case, Pictures

_WITH, _WITHOUT, _SEEN = 170, 171, 0.5
_FEWEST = 10


def drawn_by_base(case: Case, n: int) -> Pictures:
    """About n pictures of each kind by the base, of the case's prompts and of other concepts'.

    They are what the base thinks the concept looks like, so that they flatter it: pictures that no model drew are
    better.

    Raises:
        InputError: If the selector sees the concept in too few of its own pictures.
    """
    others = [prompt for prompts in case.others.values() for prompt in prompts] or [case.concept.neutral]
    concept, texts, seen = _drawn(case, case.prompts, n, _WITH)
    rest, other_texts, there = _drawn(case, others, n, _WITHOUT)
    kept, left = (seen >= _SEEN).nonzero()[:, 0].tolist(), (there < _SEEN).nonzero()[:, 0].tolist()
    if len(kept) < _FEWEST:
        raise InputError(
            f"of {n} pictures that the base draws of {case.concept.name!r} the judge sees it in {len(kept)}: it does "
            "not know the concept, or the base does not draw it; give pictures=, or another judge"
        )
    return Pictures(
        concept[kept],
        tuple(texts[i] for i in kept),
        rest[left],
        tuple(other_texts[i] for i in left),
        "drawn by the base",
    )


def _drawn(case: Case, prompts: Sequence[str], n: int, stream: int) -> tuple[Tensor, list[str], Tensor]:
    texts, seeds = case.jobs(prompts, n, stream)
    with case.base.on() as view, torch.no_grad():
        images = case.sample(view, texts, seeds)
    return images, texts, case.liked(images)
