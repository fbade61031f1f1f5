"""DiET: a copy of a model is tuned until it no longer listens to what its own masks call a distractor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.distillation import BatchNorm, Distillation
from efface.attribution.fitted import FittedDiET
from efface.attribution.mask_search import MaskSearch
from efface.attribution.maskers import Masker
from efface.attribution.masking import prepare
from efface.attribution.predictions import Outputs
from efface.attribution.removal import Removal
from efface.attribution.rounds import Fit, Guard
from efface.attribution.schedule import sparsity_at, threshold_at
from efface.attribution.values import to_plain
from efface.core.checkpoint import Checkpoint


@dataclass(frozen=True)
class DiET:
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

    Attributes:
        removal: Q, what stands where something is removed.
        masker: What cells are.
        outputs: What the model gives: `"logits"` or `"probabilities"`.
        rounds: Rounds. The released scripts run five and use the second.
        horizon: Length of the schedules (R of the code).
        step: Change of mask a pass at sparsity 1 (see `qfa`).
        steps: Passes of the mask phase.
        draws: Draws of q a pass, and a sample and step of the tuning; the code takes one.
        memory: Of the mean of gradients (see `qfa`); 0 as in the code.
        bound: Of the change of a cell, in steps (see `qfa`); None as in the code.
        decay: Whether steps fall (see `qfa`); False as in the code.
        epochs: Epochs of tuning a round, at most.
        rate: Learning rate of Adam, one optimiser for all rounds. Ten times the default cost a prototype three points.
        weight: Of the distance to f_b in the tuning (lambda_2).
        batch_norm: `"frozen"`: statistics of f_b are kept; `"train"`: of each batch, x and x_s apart, as in the code.
        stop: Loss of an epoch that is low enough, as in the code: distances summed over classes, mean over samples, so
            from 0 to 2 + 2 weight. Masks that hold the output already are below it after one epoch; 0 tunes on.
        band: Ratio to the loss two epochs before that counts as no progress.
        least_agreement: Share of training samples on which f_s and f_b must agree about the likeliest class.
        guard: If they agree less after an epoch: `"stop"` takes the epoch back and ends the fit, with an
            `AgreementWarning`; `"warn"` warns once and goes on.
        batch_size: Samples at once. Masks do not depend on it, but for rounding; the tuning does.
        seed: Of everything random. The global random state is neither used nor changed.

    Does not guarantee: that f_s is as accurate as f_b; agreement on other samples; that the masks find the signal, if
    f_b does not use it; more than tuning with random masks does: run that control, `attribution.tuning`.
    """

    removal: Removal
    masker: Masker
    outputs: Outputs = "logits"
    rounds: int = 2
    horizon: int = 5
    step: float = 0.05
    steps: int = 30
    draws: int = 1
    memory: float = 0.5
    bound: float | None = 2.0
    decay: bool = True
    epochs: int = 8
    rate: float = 1e-4
    weight: float = 1.0
    batch_norm: BatchNorm = "frozen"
    stop: float = 0.025
    band: tuple[float, float] = (0.97, 1.005)
    least_agreement: float = 0.97
    guard: Guard = "stop"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "horizon", "epochs"):
            check_positive_int(getattr(self, name), name)
        if self.rounds > self.horizon:
            raise InputError(
                f"rounds={self.rounds} of a schedule of {self.horizon}: write horizon={self.rounds} or more"
            )
        if not 0 <= self.least_agreement <= 1:
            raise InputError(f"least_agreement={self.least_agreement}: write a share of the samples, e.g. 0.97")
        if self.guard not in get_args(Guard):
            raise InputError(f'guard={self.guard!r}: write "stop" or "warn"')
        low, high = self.band
        if not (0 <= low <= high and self.stop >= 0):
            raise InputError(f"band={self.band}, stop={self.stop}: write e.g. band=(0.97, 1.005), stop=0.025")
        _ = self.distillation
        for k in range(self.rounds):
            # A cell that stayed in the last round starts from 1, and must be able to fall below the threshold.
            self.search(k).check_reach(1 - threshold_at(k, self.horizon))
        self.explaining.check_reach(1.0)

    def search(self, k: int) -> MaskSearch:
        """How round k looks for masks."""
        return self._search(sparsity_at(k, self.horizon))

    def _search(self, sparsity: float) -> MaskSearch:
        descent = (self.step, self.steps, self.draws, self.memory, self.bound, self.decay)
        return MaskSearch(self.removal, self.masker, sparsity, *descent, self.outputs)

    @property
    def explaining(self) -> MaskSearch:
        """How the fitted model is explained."""
        return self._search(1.0)

    @property
    def distillation(self) -> Distillation:
        """The model phase."""
        return Distillation(
            self.removal,
            self.masker,
            self.outputs,
            check_positive_int(self.draws, "draws"),
            self.weight,
            self.rate,
            self.batch_size,
            self.batch_norm,
        )

    def settings(self) -> dict[str, Any]:
        """All settings as plain data; tensors of the removal and the masker are left out."""
        names = [name for name in self.__dataclass_fields__ if name not in ("removal", "masker")]
        plain = {name: getattr(self, name) for name in names} | {"band": list(self.band)}
        return plain | {name: to_plain(getattr(self, name))[0] for name in ("removal", "masker")}

    def fit(
        self,
        model: nn.Module,
        x: Any,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> FittedDiET:
        """Tune a copy of a model on samples, of which no labels are asked for.

        Args:
            model: f_b, in eval mode. Parameters that do not require a gradient are not tuned.
            x: Samples: images `(n, c, h, w)`, rows `(n, d)` or token ids `(n, tokens)`; they may stay on the CPU.
            checkpoint: Folder for the state; a fit that was interrupted goes on from there, with the same result. That
                it is the same fit is checked but for what a removal or masker of your own holds outside its fields.
            checkpoint_seconds: Least time between two writings.

        Returns:
            The student with its masks and report.

        Raises:
            InputError: As `qfa`; or if the model is no module or has nothing to tune, the loss is no number, or the
                checkpoint is that of another fit.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"the model is a {type(model).__name__}: DiET tunes a copy of an nn.Module")
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(
                "no parameter requires a gradient, so there is nothing to tune: model.requires_grad_(True)"
            )
        work = Fit(self, model, prepare(model, x, self.removal))
        saved = Checkpoint(checkpoint, work.identity() if checkpoint else {}, seconds=checkpoint_seconds)
        work.run(saved)
        fitted = FittedDiET(work.student, work.masks, self.explaining, work.report(), self.seed, self.batch_size)
        saved.clear()
        return fitted
