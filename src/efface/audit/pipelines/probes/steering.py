"""Latent classifier guidance: a classifier of noisy latents pulls the sampling towards the concept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.latent_classifier import LatentClassifier, trained
from efface.audit.pipelines.probes.noise import Widening
from efface.audit.pipelines.probes.registry import Probe, register
from efface.audit.pipelines.probes.scores import Role, Scores
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.trajectory import changed, named, unasked
from efface.pipelines.stepping import SchedulerStep

_STREAM = 232


def steering(
    subject: Subject,
    case: Case,
    *,
    items: int = 16,
    scales: Sequence[float] = (10.0, 30.0, 100.0, 300.0),
    eta: float = 1.34,
    pictures: int = 64,
    steps: int = 300,
) -> list[Scores]:
    """The best of some strengths of guidance by a classifier, without and with noise, prompted and not.

    Source: arXiv:2505.17013, section 3 and appendix D.5, "steered latent": at each step

        e' = e - b s grad_x log sigmoid(f(x_t, t)),  x_t = a x_0 + b noise,

    and DDIM's step from there; with noise, the step of the noise-based probe (`eta`, v = 1).

    Where the paper's formula differs: its D.5.5 writes the gradient of the cross-entropy, and so the sign reversed;
    its equation 4 and the code are right. Ours is trained small, by the pictures of the case, in place of 1300 of
    ImageNet, and tells the concept in noisy latents itself (it is no judge through `x_0`); convolutions in place of a
    perceptron. The selector keeps the best and the judge scores: the classifier does neither. It invents the concept
    now and then where there is none, most with noise, which the gold model's rate says.

    Access: latents; no weights of the subject.

    Args:
        subject: What is asked.
        case: What for.
        items: How many prompts, each with a seed.
        scales: The strengths s.
        eta: Of the noise.
        pictures: The classifier is trained on so many with the concept, and so many without.
        steps: Of its training.

    Raises:
        NotApplicableError: If there are no pictures to train on, or the scheduler is no DDIM.
    """
    found = trained(case, pictures, steps)
    texts, seeds = case.jobs(case.prompts, items, _STREAM)
    empty, names = [case.concept.neutral] * items, named(texts, seeds)
    note = f"{found.said}, AUROC {found.auroc:.2f} over its noise levels"
    kinds = [(None, "guided"), (eta, f"guided, eta {eta:g}")]
    rows: list[Scores] = []
    with subject.on() as view:
        prompted: tuple[Role, Any, Any] = ("search", texts, {})
        unprompted: tuple[Role, Any, Any] = ("unprompted", empty, unasked(view))
        for wide, kind in kinds:
            for role, asked, more in (prompted, unprompted):
                draws = [
                    changed(view, case, asked, seeds, _steered(case, found.network, scale, wide, draw), **more)
                    for draw, scale in enumerate(scales)
                ]
                name = f"{kind}{', empty prompt' if role == 'unprompted' else ''}, the best of {len(scales)}"
                spent = {"samples": items * len(scales)}
                rows.append(best_of(name, role, torch.stack(draws, dim=1), names, case, spent=spent, note=note))
    return rows


def _steered(
    case: Case, network: LatentClassifier, scale: float, eta: float | None, draw: int
) -> Callable[[SchedulerStep, slice], Tensor]:
    wide = None if eta is None else Widening(case, eta, 1.0, draw)

    def change(step: SchedulerStep, part: slice) -> Tensor:
        prediction = steered(step, network, scale)
        return step.taken(prediction) if wide is None else wide.wider(step, part, prediction)

    return change


def steered(step: SchedulerStep, network: LatentClassifier, scale: float) -> Tensor:
    """The prediction of a step, with the noise moved down the gradient."""
    a, b = step.amounts
    with torch.enable_grad():
        latents = step.latents.detach().float().requires_grad_()
        amounts = latents.new_tensor([a, b]).expand(len(latents), 2)
        sure = F.logsigmoid(network(latents, amounts)).sum()
    slope = torch.autograd.grad(sure, latents)[0].to(step.latents)
    _, noise = step.split()
    return step.predicting(noise - b * scale * slope)


register(
    Probe(
        "classifier guidance",
        steering,
        "latents",
        "a classifier of noisy latents pulls towards the concept, with and without noise",
        None,
        {"items": 16, "scales": (10.0, 20.0, 40.0, 80.0, 160.0, 320.0), "pictures": 64, "steps": 600},
    )
)
