"""Interference: what an erasure of one concept does to each of the others, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface.audit.figure import Table
from efface.audit.finding import Finding
from efface.audit.pipelines.presence import Judge, hits
from efface.audit.pipelines.probes.subject import Subject
from efface.stats.intervals import share_change_interval, wilson_interval
from efface.training.seeds import generator, seeds_of

_STREAM, _FEWEST = 280, 5
FAMILY = "interference"


@dataclass(frozen=True, eq=False)
class Interference:
    """Answers of a judge: who was asked, for what, picture by picture.

    Attributes:
        answers: Subject -> concept asked for -> 1, 0, or NaN where the judge cannot say, `(n,)`; the same prompts and
            seeds for every subject.
        before: The subject that nothing was erased from.
    """

    answers: Mapping[str, Mapping[str, NDArray[np.float64]]]
    before: str

    def table(self) -> Table:
        """Subjects by concepts: in what share of pictures each is seen where it is asked for."""
        names = list(self.answers[self.before])
        rows = tuple((subject, *(_said(asked[name]) for name in names)) for subject, asked in self.answers.items())
        caption = "Share of pictures in which the judge sees what was asked for, of those of which it can say."
        return Table("Erased x asked", ("", *names), rows, caption)

    def findings(self) -> tuple[Finding, ...]:
        """Changes against the subject before, each picture paired with itself."""
        found = []
        for subject, asked in self.answers.items():
            if subject == self.before:
                continue
            for name, after in asked.items():
                found.append(self._change(subject, name, self.answers[self.before][name], after))
        return tuple(found)

    def _change(self, subject: str, name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> Finding:
        both = ~np.isnan(before) & ~np.isnan(after)
        known: dict[str, Any] = {"condition": subject, "unit": "share", "access": "prompts"}
        if both.sum() < _FEWEST:
            why = f"of {int(both.sum())} of {len(both)} pictures the judge can say on both sides"
            return Finding.without(name, "not applicable", why, FAMILY, **known)
        change = share_change_interval(after[both], before[both])
        n, base = int(both.sum()), float(before[both].mean())
        return Finding.of(name, change, FAMILY, chance=0.0, reference="no change", baseline=base, n=n, **known)


def interference(
    subjects: Mapping[str, Subject],
    asked: Mapping[str, Sequence[str]],
    *,
    judge: Judge,
    before: str,
    images: int = 16,
    seed: int = 0,
    batch_size: int = 16,
    **sampling: Any,
) -> Interference:
    """Ask every subject for every concept, at equal prompts and seeds.

    Source: the interference probe of the code of arXiv:2505.17013 (prompts of the other twelve concepts), which the
    paper prints as one mean; here each erased concept is set against each asked one.

    Access: prompts.

    Args:
        subjects: Name, mostly of what is erased -> the pipeline with that erasure on.
        asked: Concept, as the judge knows it -> prompts that ask for it.
        judge: Who decides.
        before: Name of the subject that nothing was erased from.
        images: How many a concept.
        seed: Of the pictures.
        batch_size: Images at a time.
        **sampling: Further arguments of `PipelineView.sample`.

    Raises:
        InputError: If there is nothing to ask, or no subject is called as `before` says.
    """
    if before not in subjects or not asked or not all(asked.values()):
        raise InputError(
            f"subjects are {', '.join(subjects) or 'none'}, of which before={before!r} is to be one, and {len(asked)} "
            "concepts are asked for: give prompts for each, and the unerased pipeline under that name"
        )
    answers: dict[str, dict[str, NDArray[np.float64]]] = {}
    for subject, each in subjects.items():
        answers[subject] = {}
        with each.on() as view:
            for i, (name, prompts) in enumerate(asked.items()):
                texts = [prompts[j % len(prompts)] for j in range(images)]
                seeds = seeds_of(images, generator(seed, _STREAM, i))
                given = {"batch_size": batch_size, "allow_unknown": True, **sampling}
                answers[subject][name] = hits(judge, view.sample(texts, seeds, **given), name).numpy()
    return Interference(answers, before)


def _said(answers: NDArray[np.float64]) -> str:
    known = answers[~np.isnan(answers)]
    if not len(known):
        return "cannot say"
    share = wilson_interval(float(known.sum()), len(known))
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
