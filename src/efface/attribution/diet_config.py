"""The settings of DiET, and the phases that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from efface._errors import InputError
from efface.attribution.distillation import BatchNorm, Distillation
from efface.attribution.mask_search import MaskSearch
from efface.attribution.maskers import Masker
from efface.attribution.predictions import Outputs
from efface.attribution.removal import Removal
from efface.attribution.schedule import sparsity_at, threshold_at
from efface.core.config import Config, option, required

Guard = Literal["stop", "warn"]


@dataclass(frozen=True)
class DietConfig(Config):
    """Every choice of a fit of DiET (arXiv 2307.15007); see `DiET`.

    Attributes:
        removal: Q, what stands where something is removed.
        masker: What cells are.
    """

    removal: Removal = required("what stands where something is removed")
    masker: Masker = required("what the cells of the masks are")
    outputs: Outputs = option("logits", "what the model gives")
    rounds: int = option(2, "rounds; the released scripts run five and use the second", least=1)
    horizon: int = option(5, "length of the schedules (R of the released code)", least=1)
    step: float = option(0.05, "change of mask a pass at sparsity 1 (see qfa)", above=0)
    steps: int = option(30, "passes of the mask phase", least=1)
    draws: int = option(1, "draws of q a pass, and a sample and step of the tuning; the released code: 1", least=1)
    memory: float = option(0.5, "share of the past in the mean of gradients (see qfa); the released code: 0", least=0)
    bound: float | None = option(2.0, "of the change of a cell, in steps (see qfa); the released code: None")
    decay: bool = option(True, "whether steps fall (see qfa); the released code: False")
    epochs: int = option(8, "epochs of tuning a round, at most", least=1)
    rate: float = option(1e-4, "learning rate of Adam, one optimiser for all rounds; ten times as much cost 3 points")
    weight: float = option(1.0, "of the distance to the model in the tuning (lambda_2)")
    batch_norm: BatchNorm = option("frozen", "frozen keeps the model's statistics; train takes each batch's")
    stop: float = option(0.025, "loss of an epoch that is low enough, from 0 to 2 + 2 weight; 0 tunes on", least=0)
    band: tuple[float, float] = option((0.97, 1.005), "ratio to the loss two epochs before that is no progress")
    least_agreement: float = option(0.97, "share of samples on which copy and model must agree", least=0, most=1)
    guard: Guard = option("stop", "stop takes an epoch of less agreement back and ends the fit; warn goes on")
    batch_size: int = option(64, "samples at once; the tuning depends on it, masks but for rounding do not", least=1)
    seed: int = option(0, "of everything random; the global random state is neither used nor changed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds > self.horizon:
            raise InputError(
                f"rounds={self.rounds} of a schedule of {self.horizon}: write horizon={self.rounds} or more"
            )
        low, high = self.band
        if not 0 <= low <= high:
            raise InputError(f"band={self.band}: write e.g. band=(0.97, 1.005)")
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
            self.draws,
            self.weight,
            self.rate,
            self.batch_size,
            self.batch_norm,
        )

    def settings(self) -> dict[str, Any]:
        """All settings as plain data; of tensors in the removal and the masker, their shapes."""
        return {name: value for name, value in self.to_dict().items() if name not in self.unknown}
