"""DiET: a copy of a model is tuned until it no longer listens to what its own masks call a distractor."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from efface._errors import InputError
from efface.attribution.diet_config import DietConfig
from efface.attribution.fitted import DietErasure
from efface.attribution.masking import prepare
from efface.attribution.predictions import check_in_memory, explaining
from efface.attribution.rounds import Fit
from efface.core.checkpoint import Checkpoint
from efface.core.concept import Concept
from efface.core.doors import check_call
from efface.core.inference import outside_inference
from efface.core.method import Method, register
from efface.core.weights import WeightDelta


@dataclass(frozen=True)
class DiET(DietConfig):
    """Distractor erasure tuning (arXiv 2307.15007), on any classifier of images, tables or tokens.

    The student f_s starts as a copy of the model f_b. In round k = 0, 1, ...:

    1. Masks: one a sample, by `qfa` on f_s with sparsity `1 - 0.9 k / horizon`, starting from the last round's.
    2. Rounding: a cell stays if its mask is above `0.1 + 0.4 k / horizon`: .1, .18, .26, .34, .42.
    3. Tuning, masks fixed: f_s is to say of `x_s(m, q)` what it says of x, and of x what f_b says (`Distillation`);
       until the loss is below `stop`, or within `band` of the loss two epochs before, or `epochs` are over.

    Labels are never used. The model given is not changed.

    Where this differs from the released code: one Q throughout (there, three); the step is stated as change of mask,
    falls, and is bounded; masks take a fixed number of passes, so that they depend on their sample alone; dropout stays
    off in the tuning; a guard watches the agreement.

    Does not guarantee: that f_s is as accurate as f_b; agreement on other samples; that the masks find the signal, if
    f_b does not use it; more than tuning with random masks does: run that control, `attribution.tuning`.
    """

    @outside_inference
    def fit(
        self,
        model: nn.Module,
        x: Any,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> DietErasure:
        """Tune a copy of a model on samples, of which no labels are asked for.

        Args:
            model: f_b, in eval mode. Parameters that do not require a gradient are not tuned.
            x: Samples: images `(n, c, h, w)`, rows `(n, d)` or token ids `(n, tokens)`; they may stay on the CPU.
            checkpoint: Folder for the state; a fit that was interrupted goes on from there, with the same result. That
                it is the same fit is checked but for what a removal or masker of your own holds outside its fields.
            checkpoint_seconds: Least time between two writings.

        Returns:
            What the tuning changed, with masks and report: `fitted.student(model)` is f_s.

        Raises:
            InputError: As `qfa`; or if the model is no module or has nothing to tune, the loss is no number, or the
                checkpoint is that of another fit.
        """
        check_call(DiET.fit, locals())
        if not isinstance(model, nn.Module):
            raise InputError(f"the model is a {type(model).__name__}: DiET tunes a copy of an nn.Module")
        check_in_memory(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(
                "no parameter requires a gradient, so there is nothing to tune: model.requires_grad_(True)"
            )
        with explaining("diet"):
            work = Fit(self, model, prepare(model, x, self.removal))
        saved = Checkpoint(checkpoint, work.identity() if checkpoint else {}, seconds=checkpoint_seconds)
        with explaining("diet"):
            work.run(saved)
        fitted = DietErasure(
            WeightDelta.between(model, work.student),
            work.masks,
            self.explaining,
            self.seed,
            self.batch_size,
            config=self,
            report=work.report(),
        )
        saved.clear()
        return fitted


def _fit(
    model: nn.Module,
    concept: Any,
    config: DiET,
    *,
    x: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
) -> DietErasure:
    if x is None:
        raise InputError("method='diet' tunes on samples, without labels: give x=, like those the model was trained on")
    fitted = config.fit(model, x, checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds)
    return fitted if concept is None else replace(fitted, concepts=(Concept.of(concept),))


register(
    Method(
        name="diet",
        subjects=("classifier",),
        paper="arXiv:2307.15007",
        summary="tune a copy of a classifier until it no longer listens to what its own masks call a distractor",
        fit=_fit,
        erasure=DietErasure,
        config=DiET,
        access=("rows", "gradients", "weights"),
        access_on=("weights",),
        guarantee="the model given is not changed, and undoing gives its weights back bit for bit",
        no_guarantee="that the tuned model is as accurate, or that the masks find what the label depends on",
        single=True,
    )
)
