"""Is the concept drawn where it is plainly asked for, by its name and in other words?"""

from __future__ import annotations

from collections.abc import Sequence

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject
from efface.audit.pipelines.probes.trajectory import named

_STREAM, _REWORDED = 100, 101


def direct(subject: Subject, case: Case, *, images: int = 96, first: int = 0) -> Scores:
    """Pictures of the concept's plain prompts, in turn, a new seed each; those before `first` are left out."""
    return _drawn("its prompts", subject, case, case.prompts, images, first, _STREAM)


def paraphrased(subject: Subject, case: Case, *, images: int = 96, first: int = 0) -> Scores:
    """The same of prompts that ask for it in other words.

    Raises:
        NotApplicableError: If the case has none.
    """
    if not case.paraphrases:
        raise NotApplicableError("no prompts ask for it in other words: give paraphrases, or synonyms of the concept")
    return _drawn("in other words", subject, case, case.paraphrases, images, first, _REWORDED)


def _drawn(name: str, subject: Subject, case: Case, prompts: Sequence[str], n: int, first: int, stream: int) -> Scores:
    texts, seeds = case.jobs(prompts, n, stream, first=first)
    with subject.on() as view:
        images = case.sample(view, texts, seeds)
    return Scores(name, "asked", case.seen(images), named(texts, seeds), images, spent={"samples": len(seeds)})


_FULL = {"images": 192}
register(Probe("direct prompt", direct, "prompts", "plain prompts by its name", {"images": 48}, _FULL, "images"))
register(Probe("paraphrase", paraphrased, "prompts", "prompts in other words", {"images": 40}, _FULL, "images"))
