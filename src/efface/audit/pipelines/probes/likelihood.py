"""What the denoiser thinks of pictures of the concept: its loss on them, asked and unasked.

It needs no sampling and no judge. An edit of what a prompt means leaves the loss with the empty prompt as it was; one
that lowers the likelihood of the concept's pictures raises it, and one that is overdone raises it beyond that of a
model that never saw any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.conditions import asked, empty
from efface.audit.pipelines.probes.latents import clean_of, encoded, noising_of
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.subject import Subject
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.noising import noise_like
from efface.pipelines.view import PipelineView

_NOISE, _AT_ONCE = 110, 64
_WEIGHT = (0.3, 5.0)
LOSS = "loss"


def likelihood(subject: Subject, case: Case, *, pictures: int = 96, draws: int = 6, first: int = 0) -> list[Scores]:
    """Loss on held-out pictures of the concept, with the empty prompt and with their own; and on others.

    The loss is `w ||x_0 - x_0(x_t, t, prompt)||^2` with w the signal-to-noise ratio cut to [0.3, 5], a mean over noise
    levels at equal distances; noise and levels are the same for each model.

    Args:
        subject: The pipeline.
        case: What is asked.
        pictures: How many of each kind.
        draws: Noise levels a picture.
        first: Pictures before this one are left out.

    Raises:
        NotApplicableError: If there are too few pictures, or none after those.
    """
    found = case.need_pictures(first + 2)
    part = slice(first, pictures)
    with subject.on() as view:
        rows = _rows("", "likelihood", view, case, found.concept[part], found.texts[part], draws, first)
        rest = _rows("others, ", "control", view, case, found.others[part], found.other_texts[part], draws, first)
    rows = [replace(row, reference=other.values) for row, other in zip(rows, rest, strict=True)]
    return [*rows, *rest]


def _rows(
    which: str,
    role: Role,
    view: PipelineView,
    case: Case,
    images: Tensor,
    texts: tuple[str, ...],
    draws: int,
    first: int,
) -> list[Scores]:
    clean = encoded(view, images)
    items = tuple(f"picture {i}: “{text}”" for i, text in enumerate(texts, first))
    more: dict[str, Any] = {"unit": LOSS, "spent": {"passes": draws * len(clean)}}
    unasked = losses(view, clean, empty(view, len(clean)), draws, case, first=first)
    rows = [Scores(f"{which}empty prompt", role, unasked, items, images, **more)]
    named = losses(view, clean, asked(view, texts), draws, case, first=first)
    return [
        *rows,
        Scores(f"{which}its prompt", role, named, items, **more),
    ]


@torch.no_grad()
def losses(
    view: PipelineView,
    clean: Tensor,
    given: PromptEmbedding,
    draws: int,
    case: Case,
    model: Any = None,
    first: int = 0,
) -> Tensor:
    """The loss of each of n clean latents, `(n,)`, a mean over noise levels.

    Args:
        view: The pipeline.
        clean: `(n, ...)`.
        given: n prompts.
        draws: How many noise levels.
        case: Whose seed draws the noise.
        model: Called in place of `view.denoise(noisy, t, prompts)`; None for that.
        first: How many pictures there were before these, which have noise of their own.
    """
    noising, total = noising_of(view), torch.zeros(len(clean), dtype=torch.float64)
    levels = (torch.arange(draws) + 0.5) / draws
    schedule = view.prepare(given[0], steps=draws).timesteps
    for k in range(draws):
        noise = noise_like(clean, case.source(_NOISE, k, *([first] if first else [])))
        t = noising.drawn(schedule, levels[k].expand(len(clean))).to(clean.device)
        noisy = noising.noised(clean, noise, t)
        a, b = noising.amounts(t, clean)
        weight = ((a / b) ** 2).clamp(*_WEIGHT).flatten()
        parts = []
        for start in range(0, len(clean), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            said = (view.denoise if model is None else model)(noisy[part], t[part], given[part])
            parts.append(clean_of(view, noisy[part], t[part], said.float()))
        error = (torch.cat(parts) - clean).flatten(1).pow(2).mean(dim=1)
        total += (weight * error).double().cpu()
    return total / draws


register(
    Probe(
        "likelihood",
        likelihood,
        "latents",
        "loss on held-out pictures, unasked and asked",
        {"pictures": 96, "draws": 6},
        {"pictures": 128, "draws": 12},
        "pictures",
    )
)
