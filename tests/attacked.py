"""A tiny pipeline as the subject of attacks, and judges of its pictures that know nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case, Pictures
from efface.audit.pipelines.probes.subject import Subject
from efface.core.concept import Concept
from efface.pipelines import PipelineView
from tests.pipelines import build, small, tiny, widen

STEPS = 4


class Counted:
    """A judge that counts the pictures it is shown, and sees the concept in those with much red."""

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, images: Tensor, _name: str) -> Tensor:
        self.shown += len(images)
        return (images[:, 0].mean((1, 2)) > images[:, 1].mean((1, 2))).double()


def other_pipe(seed: int = 1) -> Any:
    """The tiny pipeline with another denoiser."""
    pipe = build("sd1")
    widen(pipe.unet, torch.Generator().manual_seed(seed))
    return pipe


def subject(pipe: Any = None, erasure: Any = None) -> Subject:
    """The tiny pipeline, or another."""
    return Subject("subject", PipelineView.of(tiny("sd1") if pipe is None else pipe), erasure)


def case(base: Subject | None = None, **changes: Any) -> Case:
    """A circle, asked of the tiny pipeline."""
    source = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 32, 32, generator=source)
    texts = ("a red circle",) * 12
    known: dict[str, Any] = {
        "concept": Concept("circle", templates=("a {}", "a photo of a {}")),
        "base": base or subject(),
        "judge": Counted(),
        "selector": Counted(),
        "prompts": ("a red circle", "a big blue circle"),
        "others": {"star": ("a red star",), "square": ("a big square",)},
        "pictures": Pictures(images[:12], texts, images[12:], ("a star",) * 12),
        "sampling": {"steps": STEPS, "guidance": 3.0, **small("sd1")},
        "batch_size": 3,
    }
    return Case(**{**known, **changes})
