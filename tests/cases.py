"""A tiny subject of each kind, a concept for it, and what it gives: what the shared suite drives every method on.

A method needs nothing here. Only where its defaults take long, or act late, is there an entry in `QUICK`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import efface
from efface.attribution import Grid
from efface.attribution.removal_images import ConstantColour
from tests import models, squares
from tests.pipelines import build

_TUNED = {"steps": 2, "sampling_steps": 2, "at_once": 2, "probes": 2, "learning_rate": 1e-3}
QUICK: dict[str, dict[str, Any]] = {
    "esd": _TUNED,
    "midsteer": {"samples": 1, "steps": 2},
    "spm": _TUNED | {"others": 2, "keeping": 1.0},
    "adv-unlearn": _TUNED | {"warm_up": 1, "attack_steps": 2, "attack_rate": 1e-2, "retained": 2},
    "mace": _TUNED | {"pictures": 2, "steps": 1, "learning_rate": 1e-2},
    "receler": _TUNED | {"rank": 4, "attack_steps": 2, "attack_rows": 3, "learning_rate": 1e-2},
    **dict.fromkeys(("concept-ablation", "gradient-ascent", "task-vector"), _TUNED | {"pictures": 2, "batch": 2}),
    "cgce": {"n_pairs": 24, "epochs": 4, "learning_rate": 0.01, "keep_rows": 0.5, "members": 2, "width": 8, "heads": 2},
    "diet": {"rounds": 1, "epochs": 1, "step": 0.2, "steps": 6, "stop": 0.0, "least_agreement": 0.0, "rate": 1e-3},
    "semantic-surgery": {"threshold": -2.0},
    "sld": {"warmup": 1},
}


@dataclass(frozen=True)
class Case:
    """One kind of subject.

    Attributes:
        subject: Makes it; equal at every call.
        concept: What `efface.erase` is given.
        data: What else.
        said: What a subject gives, with or without an erasure on it.
        wrong: Makes a subject of another kind.
        other: Makes one of the same kind that the erasure does not fit.
    """

    subject: Callable[[], Any]
    concept: Any
    data: Callable[[], dict[str, Any]]
    said: Callable[[Any], Tensor]
    wrong: Callable[[], Any]
    other: Callable[[], Any]

    def fit(self, method: Any, subject: Any = None, **options: Any) -> Any:
        """The method's erasure of the subject, or of one that is at hand."""
        subject = self.subject() if subject is None else subject
        return efface.erase(subject, self.concept, method=method.name, **{**self.given(method), **options})

    def given(self, method: Any) -> dict[str, Any]:
        """What the case has of that which the fit of a method takes."""
        taken = {*method.data, *(option.name for option in method.config.options())}
        data = {name: value for name, value in self.data().items() if name in taken}
        return {**data, **QUICK.get(method.name, {})}


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator, dtype=torch.float64)
    x[:, 0] += 2 * labels()
    return x


def labels() -> Tensor:
    return torch.arange(120) % 3


@cache
def _tokens() -> Tensor:
    return models.tokens()


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(_tokens()).logits


def _pictures() -> Tensor:
    return squares.squares(32)[0]


def _scores(model: Any) -> Tensor:
    with torch.no_grad():
        return model(_pictures())


def _latents(pipe: Any) -> Tensor:
    seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
    call = {"height": 32, "width": 32, "num_inference_steps": 4, "output_type": "latent", "generator": seeds}
    return pipe(["a red circle", "a small star"], guidance_scale=4.0, **call).images


def _classifier_data() -> dict[str, Any]:
    removal = ConstantColour((0.25,) * 3, (0.1,) * 3)
    return {"x": _pictures(), "removal": removal, "masker": Grid(2)}


CIRCLE = efface.Concept(
    "circle",
    templates=["{}", "a {}", "a red {}", "a blue {}", "a photo of a {}", "a picture of the {}"],
    preserve=["square", "star", "ring"],
)

CASES: dict[str, Case] = {
    "rows": Case(
        subject=rows,
        concept=efface.Concept("group", labels=labels()),
        data=dict,
        said=lambda x: x,
        wrong=object,
        other=lambda: torch.zeros(3, 4, dtype=torch.float64),
    ),
    "model": Case(
        subject=lambda: models.tiny("llama"),
        concept=efface.Concept("kind", labels=models.tokens() % 3),
        data=lambda: {"data": {"input_ids": _tokens()}, "sites": "norms"},
        said=_logits,
        wrong=lambda: build("sd1"),
        other=lambda: models.tiny("gpt2"),
    ),
    "classifier": Case(
        subject=squares.colour_net,
        concept="distractors",
        data=_classifier_data,
        said=_scores,
        wrong=lambda: build("sd1"),
        other=lambda: torch.nn.Linear(3, 2),
    ),
    "pipeline": Case(
        subject=lambda: build("sd1"),
        concept=CIRCLE,
        data=dict,
        said=_latents,
        wrong=lambda: models.tiny("llama"),
        other=lambda: build("sdxl"),
    ),
}
