"""How often the concept comes where nothing is asked for: the mass that it has in what the pipeline draws by itself."""

from __future__ import annotations

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import Subject

_STREAM = 130


def unprompted(subject: Subject, case: Case, *, images: int = 64) -> Scores:
    """Pictures of the empty prompt, a new seed each."""
    texts, seeds = case.jobs([""], images, _STREAM)
    with subject.on() as view:
        drawn = case.sample(view, texts, seeds)
    items = tuple(f"seed {seed}" for seed in seeds)
    return Scores("empty prompt", "unprompted", case.seen(drawn), items, drawn, spent={"samples": images})


register(
    Probe("unprompted", unprompted, "prompts", "pictures of the empty prompt", {"images": 32}, {"images": 400}),
)
