"""Maps of an image classifier by any method, next to controls, and what keeping or dropping their top pixels does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface.attribution.baselines import BASELINES, attribute
from efface.attribution.controls import CONTROLS, control_maps
from efface.attribution.curves import FRACTIONS, drop_curve, fill, keep_curve
from efface.attribution.diet import DiET
from efface.attribution.fitted import DietErasure
from efface.attribution.mask_search import qfa
from efface.attribution.maskers import Grid, Masker, masked
from efface.attribution.predictions import Outputs, predict
from efface.attribution.removal import Removal
from efface.attribution.selection import cells_of, top_k
from efface.audit.explanations import Measured

SUMMARIES = {
    "qfa": "search for the smallest mask that keeps what the model says (arXiv:2307.15007)",
    "diet": "the same search on a copy that was tuned to listen to nothing else (arXiv:2307.15007)",
    **{name: f"{baseline.summary} ({baseline.paper})" for name, baseline in BASELINES.items()},
}
METHODS = tuple(SUMMARIES)
"""What `efface.explain` can be asked for."""

AT = 0.05
"""Share of pixels that headlines are about."""

_CELLS = 16
_FALL = 1.5
_LARGEST = 0.995


@dataclass(frozen=True)
class Maps:
    """Maps of n images by one method.

    Attributes:
        method: One of `METHODS`.
        values: `(n, h, w)` on the CPU, higher is more important; of masks in [0, 1].
        told: Probability of the reference class with all but the mask replaced, `(n,)`; where the map is no mask, with
            all but its top 5 % replaced.
        size: Share of each image that its mask keeps, `(n,)`; None where the map is no mask.
    """

    method: str
    values: Tensor
    told: Tensor
    size: Tensor | None = None

    __repr__ = brief

    @property
    def heat(self) -> Tensor:
        """The same in [0, 1], to be drawn: masks as they are, others from 0 to near the map's own greatest value."""
        if self.size is not None:
            return self.values.clamp(0, 1)
        values = self.values.clamp_min(0)
        top = values.float().flatten(1).quantile(_LARGEST, dim=1)[:, None, None]
        return (values / torch.where(top > 0, top, 1.0)).clamp(0, 1)


def default_masker(images: Tensor) -> Grid:
    """A grid of about 16 x 16 cells over images `(n, channels, h, w)`.

    >>> default_masker(torch.zeros(1, 3, 224, 224)).shape(torch.zeros(1, 3, 224, 224))
    (16, 16)
    """
    return Grid(max(1, round(min(images.shape[2:]) / _CELLS)))


def occlusion_windows(images: Tensor) -> dict[str, int]:
    """Windows of an eighth of the shorter side, half a window apart: about 225 an image of any size.

    >>> occlusion_windows(torch.zeros(1, 3, 224, 224))
    {'window': 28, 'stride': 14}
    """
    window = max(1, round(min(images.shape[2:]) / (_CELLS // 2)))
    return {"window": window, "stride": max(1, window // 2)}


@dataclass(frozen=True)
class Setting:
    """How images are masked, and how the masked ones are put to a model.

    Attributes:
        removal: Q.
        masker: Cells of masks.
        outputs: What the model gives.
        steps: Passes of a mask search; a cell may fall by 1.5 in them.
        fractions: Shares of pixels that curves look at.
        draws: Draws of q an image, of the curves.
        batch_size: Images at a time.
        seed: Of everything random.
    """

    removal: Removal
    masker: Masker
    outputs: Outputs = "logits"
    steps: int = 30
    fractions: Sequence[float] = FRACTIONS
    draws: int = 4
    batch_size: int = 32
    seed: int = 0

    @property
    def step(self) -> float:
        """Change of mask a pass."""
        return min(1.0, _FALL / max(1, self.steps))

    def diet(self) -> DiET:
        """DiET under this setting."""
        shared = {"step": self.step, "steps": self.steps, "batch_size": self.batch_size, "seed": self.seed}
        return DiET(self.removal, self.masker, outputs=self.outputs, **shared)

    def maps(
        self,
        method: str,
        model: nn.Module,
        x: Tensor,
        wanted: Tensor,
        fitted: DietErasure | None,
        student: nn.Module | None,
    ) -> Maps:
        """Maps of images by a method; `wanted` are the classes to explain, `(n,)`, `student` DiET's tuned copy."""
        if method == "diet":
            if fitted is None or student is None:
                raise InputError("diet explains a tuned copy of the model: give fitted=, or train= to tune one on")
            found = fitted.explain(student, x, seed=self.seed)
            return Maps(method, found.maps, self._told(student, x, wanted, found.maps), found.kept)
        if method == "qfa":
            shared = {"removal": self.removal, "masker": self.masker, "step": self.step, "steps": self.steps}
            found = qfa(model, x, **shared, outputs=self.outputs, batch_size=self.batch_size, seed=self.seed)
            return Maps(method, found.maps, self._told(model, x, wanted, found.maps), found.kept)
        shared: dict[str, Any] = {"outputs": self.outputs, "batch_size": self.batch_size, "seed": self.seed}
        shared |= occlusion_windows(x) if method == "occlusion" else {}
        values = attribute(method, model, x, wanted.to(x.device), **shared).detach().cpu()
        top = top_k(values, cells_of(AT, values[0].numel()), seed=self.seed).to(values.dtype)
        return Maps(method, values, self._told(model, x, wanted, top))

    def _told(self, model: nn.Module, x: Tensor, wanted: Tensor, keep: Tensor) -> Tensor:
        """Probability of the classes with what is not kept replaced by one draw of q, `(n,)`."""
        shown = masked(x, keep.to(x)[:, None], fill(self.removal, x, torch.Generator().manual_seed(self.seed)))
        said = predict(model, shown, outputs=self.outputs, batch_size=self.batch_size).cpu()
        return said.gather(1, wanted[:, None])[:, 0]

    def controls(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of the controls that need the images alone."""
        return {name: control_maps(name, x, seed=self.seed) for name in CONTROLS}

    def measure(self, model: nn.Module, x: Tensor, wanted: Tensor, maps: Tensor, size: Tensor | None) -> Measured:
        """Keep and drop curves of maps, with the model's own answers as the classes to hit."""
        shared = {"labels": wanted, "fractions": self.fractions, "draws": self.draws, "seed": self.seed}
        shared |= {"outputs": self.outputs, "batch_size": self.batch_size}
        kept, gone = (curve(model, x, maps.to(x), self.removal, **shared) for curve in (keep_curve, drop_curve))
        # Sums of draws may pass 1 by rounding.
        shares = (c.hits.double().clamp(0, 1).numpy() for c in (kept, gone))
        return Measured(*shares, size=None if size is None else size.double().clamp(0, 1).numpy())
