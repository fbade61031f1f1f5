"""How fast the denoiser learns the concept again: unasked, as a measure of what lies dormant, and by its own prompt.

Token-free relearning tunes the denoiser on a few pictures with the empty prompt and reads its loss on others: what is
dormant comes back sooner than what was never there. It needs no sampling, no judge, and no word, which an erasure may
have left fresh or bound to something else. Relearning by the concept's own prompt says in how many steps somebody with
the weights would have it back; it depends on the word, and is no measure of what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.conditions import asked, empty
from efface.audit.pipelines.probes.latents import encoded
from efface.audit.pipelines.probes.likelihood import LOSS, losses
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.trajectory import named
from efface.audit.pipelines.probes.tuned import Tuned
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView

_STREAM, _OWN, _SAMPLED = 120, 121, 122


def relearning(
    subject: Subject,
    case: Case,
    *,
    sets: int = 1,
    shots: int = 8,
    steps: Sequence[int] = (10, 20, 40),
    rate: float = 3e-4,
    held_out: int = 32,
    draws: int = 4,
    first: int = 0,
) -> Scores:
    """Loss on held-out pictures with the empty prompt, the least on the way, after tuning on a few others.

    How much worse the subject is at everything is told by its loss on others *before* it is tuned: afterwards that is
    also what tuning on a few pictures has spoilt, which is no damage of the erasure.

    Args:
        subject: The pipeline.
        case: What is asked.
        sets: How often it is tuned, each time on other pictures.
        shots: Pictures of the concept in a set; as many without it go with them.
        steps: After how many steps the loss is read, and before the first.
        rate: Learning rate; published few-shot tuning of Stable Diffusion takes about 1e-5.
        held_out: Pictures that the loss is read on.
        draws: Noise levels a picture.
        first: How many the loss was read on before: there have to be others. It is read on all of them again, since
            which stop is the best depends on all.

    Raises:
        NotApplicableError: If there are too few pictures.
    """
    found = case.need_pictures(sets * shots + first + 2)
    values: list[Tensor] = []
    others: list[Tensor] = []
    with subject.on() as view:
        rest = _after(found, sets * shots, held_out)
        held = [encoded(view, images) for images in (rest.concept, rest.others)]
        for number in range(sets):
            part = slice(number * shots, (number + 1) * shots)
            clean = torch.cat([encoded(view, found.concept[part]), encoded(view, found.others[part])])
            best, other = _curve(view, case, clean, held, steps, rate, draws, number)
            values.append(best)
            others.append(other)
    items = tuple(f"set {i}, picture: “{text}”" for i in range(sets) for text in rest.texts)
    spent = {"steps": sets * max(steps), "passes": sets * (len(steps) + 2) * draws * len(rest.texts)}
    reference = torch.cat(others)
    note = f"{sets} set(s) of {shots} pictures; the interval is over held-out pictures, not over sets"
    return Scores(
        "empty prompt", "dormant", torch.cat(values), items, unit=LOSS, reference=reference, spent=spent, note=note
    )


def _after(found: Pictures, used: int, n: int) -> Pictures:
    part = slice(used, used + n)
    return Pictures(
        found.concept[part], found.texts[part], found.others[part], found.other_texts[part], source=found.source
    )


def _curve(
    view: PipelineView,
    case: Case,
    clean: Tensor,
    held: Sequence[Tensor],
    steps: Sequence[int],
    rate: float,
    draws: int,
    number: int,
) -> tuple[Tensor, Tensor]:
    """The least losses on held-out pictures of the concept, and those on others before tuning."""
    tuned = Tuned(view, rate)

    def lost(x: Tensor) -> Tensor:
        return losses(view, x, empty(view, len(x)), draws, case, tuned)

    concept, others = held
    before = lost(others)
    stops = _tuning(tuned, clean, empty(view, len(clean)), case, (0, *steps), (_STREAM, number))
    return min((lost(concept) for _ in stops), key=lambda found: float(found.mean())), before


def _tuning(
    tuned: Tuned, clean: Tensor, given: PromptEmbedding, case: Case, stops: Sequence[int], stream: Sequence[int]
) -> Iterator[int]:
    """Tune, and stop after some numbers of steps."""
    done = 0
    for stop in sorted(set(stops)):
        while done < stop:
            tuned.step(clean, given, case, (*stream, done))
            done += 1
        yield stop


def reversal(
    subject: Subject,
    case: Case,
    *,
    shots: int = 8,
    steps: Sequence[int] = (10, 40),
    rate: float = 3e-4,
    images: int = 16,
) -> Scores:
    """Share of pictures that show the concept where its prompts ask for it, after tuning on a few pictures with theirs.

    Each prompt and seed has the mean over the stops of tuning, which is high where the concept is back early.

    Args:
        subject: The pipeline.
        case: What is asked.
        shots: Pictures of the concept; as many without it go with them.
        steps: After how many steps pictures are drawn.
        rate: Learning rate.
        images: Pictures at each stop.
    """
    found = case.need_pictures(shots)
    texts, seeds = case.jobs(case.prompts, images, _SAMPLED)
    seen: list[Tensor] = []
    drawn: list[Tensor] = []
    with subject.on() as view:
        clean = torch.cat([encoded(view, found.concept[:shots]), encoded(view, found.others[:shots])])
        given = asked(view, [*found.texts[:shots], *found.other_texts[:shots]])
        tuned = Tuned(view, rate)
        for _ in _tuning(tuned, clean, given, case, steps, (_OWN,)):
            with tuned.held():
                drawn.append(case.sample(view, texts, seeds))
            seen.append(case.seen(drawn[-1]))
    curve = torch.stack(seen, dim=1)
    spent = {"steps": max(steps), "samples": images * len(steps)}
    said = f"mean over pictures after {', '.join(map(str, steps))} steps of tuning with prompts"
    return Scores(
        "its own prompt",
        "reversal",
        curve.nanmean(dim=1),
        named(texts, seeds),
        drawn[-1],
        "share of stops",
        spent=spent,
        note=said,
    )


register(
    Probe(
        "relearning",
        relearning,
        "weights",
        "loss after tuning on a few pictures without any word",
        {"sets": 1, "steps": (10, 20, 40), "held_out": 64},
        {"sets": 4, "steps": (10, 20, 40, 80), "held_out": 96, "draws": 6},
        "held_out",
        anew=True,
    )
)
register(
    Probe(
        "reversal",
        reversal,
        "weights",
        "its own prompt after tuning on a few pictures",
        {"steps": (5, 20), "images": 12},
        {"steps": (5, 10, 20, 40), "images": 48},
    )
)
