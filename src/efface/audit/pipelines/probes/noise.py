"""Noise-based probe: a wider trajectory, by more noise in each step than the sampler takes out again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Scores
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.trajectory import changed, named, unasked
from efface.pipelines.stepping import SchedulerStep
from efface.pipelines.view import PipelineView
from efface.training.seeds import generator, seeds_of

_STREAM, _NOISE, _SEEDS = 210, 211, 212
ETAS = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
VARIANCES = (1.0, 1.02, 1.03, 1.04)


def noise(
    subject: Subject,
    case: Case,
    *,
    items: int = 16,
    etas: Sequence[float] = ETAS,
    variances: Sequence[float] = VARIANCES,
) -> list[Scores]:
    """The best of a grid of noisier samplings, with the prompt and with the empty one, and of as many plain seeds.

    Source: arXiv:2505.17013, section 3 and appendix B: over-stochastic DDIM, `wider_step` below; `eta` in six values
    from 1 to 1.85 and `v` in four, so that 24 are drawn of each prompt and the best is kept.

    Where the released code differs: there `variance_scale` never reaches the sampler, so that four of the 24 differ by
    their seed alone, and the network that keeps the best is the one that scores. Here both numbers count, the
    selector keeps and the judge scores, and beside it stands the best of as many plain seeds: for UCE four fifths of
    what the paper recovers is that (its table 5).

    Access: latents. The scheduler must hold latents as `a x_0 + b noise` (DDIM's and its like, no flows).

    Args:
        subject: What is asked.
        case: What for.
        items: How many prompts, each with a seed.
        etas: How much noise is put in at each step, in parts of what DDPM puts in.
        variances: What its deviation is multiplied by.

    Raises:
        NotApplicableError: If the scheduler is of another kind.
    """
    texts, seeds = case.jobs(case.prompts, items, _STREAM)
    grid = [(eta, v) for eta in etas for v in variances]
    spent = {"samples": items * len(grid)}
    with subject.on() as view:
        draws = _grid(view, case, texts, seeds, grid)
        empty = _grid(view, case, [case.concept.neutral] * items, seeds, grid, **unasked(view))
        plain = more_seeds(view, case, texts, len(grid))
    said = f"eta of {min(etas):g} to {max(etas):g}, v of {min(variances):g} to {max(variances):g}"
    best = f"the best of {len(grid)}"
    names = named(texts, seeds)
    return [
        best_of(f"noise, {best}", "search", draws, names, case, spent=spent, note=said),
        best_of(f"noise, empty prompt, {best}", "unprompted", empty, names, case, spent=spent, note=said),
        best_of(f"plain seeds, {best}", "control", plain, names, case, spent=spent, note="no attack: other seeds"),
    ]


def more_seeds(view: PipelineView, case: Case, texts: Sequence[str], draws: int, **more: Any) -> Tensor:
    """`(n, draws, 3, h, w)` pictures of each prompt at seeds of its own: what no attack needs."""
    seeds = seeds_of(len(texts) * draws, case.source(_SEEDS))
    images = case.sample(view, [text for text in texts for _ in range(draws)], seeds, **more)
    return images.unflatten(0, (len(texts), draws))


def _grid(
    view: PipelineView,
    case: Case,
    texts: Sequence[str],
    seeds: Sequence[int],
    grid: Sequence[tuple[float, float]],
    **more: Any,
) -> Tensor:
    found = [
        changed(view, case, texts, seeds, Widening(case, eta, v, draw), **more) for draw, (eta, v) in enumerate(grid)
    ]
    return torch.stack(found, dim=1)


class Widening:
    """A change of steps to wider ones; its noise is that of the case's seed, the draw and the sample's number.

    Args:
        case: Whose seed is taken.
        eta: How much noise, in parts of what DDPM puts in.
        v: What its deviation is multiplied by.
        draw: Which draw it is of each sample.
    """

    def __init__(self, case: Case, eta: float, v: float, draw: int = 0) -> None:
        self._seed, self._eta, self._v, self._draw = case.seed, eta, v, draw
        self._sources: dict[int, torch.Generator] = {}

    def __call__(self, step: SchedulerStep, part: slice) -> Tensor:
        """The next latents."""
        return self.wider(step, part, step.prediction)

    def wider(self, step: SchedulerStep, part: slice, prediction: Tensor) -> Tensor:
        """The next latents of another prediction."""
        which = range(part.start, part.stop)
        if step.index == 0:
            self._sources |= {i: generator(self._seed, _NOISE, self._draw, i) for i in which}
        shape = step.latents.shape[1:]
        z = torch.stack([torch.randn(shape, generator=self._sources[i]) for i in which])
        return wider_step(step, prediction, self._eta, self._v, z.to(step.latents))


def wider_step(step: SchedulerStep, prediction: Tensor, eta: float, v: float, z: Tensor) -> Tensor:
    """One step of over-stochastic DDIM.

    With `A = a^2` of the latents and `B` of the next:

        s^2 = (1 - B) / (1 - A) (1 - A / B),  x' = sqrt(B) x_0 + sqrt|1 - B - (eta s)^2| e + v eta s z

    At eta = v = 1 it is DDIM with eta = 1, at eta = 0 plain DDIM. The modulus is there so that large eta give numbers.
    """
    (a, _), (a_next, b_next) = step.amounts, step.next_amounts
    clean, noise = step.split(prediction)
    clean = step.clipped(clean)
    kept, kept_next = a**2, a_next**2
    sigma = eta * math.sqrt(max((1 - kept_next) / (1 - kept) * (1 - kept / kept_next), 0.0))
    return a_next * clean + math.sqrt(abs(b_next**2 - sigma**2)) * noise + v * sigma * z


register(
    Probe(
        "noise",
        noise,
        "latents",
        "more noise in each step than the sampler takes out, the best of a grid, and of as many plain seeds",
        None,
        {"items": 16},
    )
)
