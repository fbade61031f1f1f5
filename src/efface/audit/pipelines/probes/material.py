"""Pictures that attacks are made from: the case's, or where it has too few, drawn by the base."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.subject import NotApplicableError

_CONCEPT, _OTHERS = 300, 301
_DRAWN: WeakKeyDictionary[Case, dict[int, Pictures]] = WeakKeyDictionary()


def material(case: Case, n: int) -> Pictures:
    """N pictures with the concept and n without, the same for every subject.

    Those that the case has, the last of them first: what other probes measure on are the first ones. Where it has too
    few, the base draws them, as attackers in the literature let it.

    Raises:
        NotApplicableError: If the base is to draw and the case has no other concepts.
    """
    given = case.pictures
    if given is not None and min(len(given.concept), len(given.others)) >= n:
        return Pictures(
            given.concept.flip(0)[:n], given.texts[::-1][:n], given.others.flip(0)[:n], given.other_texts[::-1][:n],
            given.source,
        )  # fmt: skip
    known = _DRAWN.setdefault(case, {})
    if n not in known:
        known[n] = _drawn(case, n)
    return known[n]


def _drawn(case: Case, n: int) -> Pictures:
    prompts = [text for each in zip(*case.others.values(), strict=False) for text in each]
    if not prompts:
        raise NotApplicableError("pictures without the concept are needed: give pictures, or other concepts")
    with case.base.on() as view:
        parts: list[Tensor] = []
        texts: list[tuple[str, ...]] = []
        for stream, asked in ((_CONCEPT, case.prompts), (_OTHERS, prompts)):
            said, seeds = case.jobs(asked, n, stream)
            parts.append(case.sample(view, said, seeds))
            texts.append(tuple(said))
    return Pictures(parts[0], texts[0], parts[1], texts[1], "drawn by the base")


def latents_of_concept(case: Case, n: int) -> tuple[Tensor, tuple[str, ...], str]:
    """Clean latents of n pictures with the concept, a prompt for each, and where they come from."""
    from efface.audit.pipelines.probes.latents import encoded

    found = material(case, n)
    with case.base.on() as view, torch.no_grad():
        return encoded(view, found.concept[:n]), found.texts[:n], found.source
