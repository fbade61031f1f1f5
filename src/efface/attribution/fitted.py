"""What DiET leaves behind: a student that no longer listens to distractors, and the masks of the training samples."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface._io import load_folder, save_folder
from efface.attribution.mask_search import MaskSearch, QfaResult
from efface.attribution.maskers import FeatureGroups, Grid, Masker, Segments
from efface.attribution.removal import REMOVALS, Removal
from efface.attribution.superpixels import Superpixels
from efface.attribution.tokens import Tokens
from efface.attribution.values import from_plain, to_plain
from efface.training.loop import below

_KIND = "diet"
MASKERS: dict[str, type] = {kind.__name__: kind for kind in (Grid, Segments, FeatureGroups, Superpixels, Tokens)}
"""Maskers that files can hold, by name."""


@dataclass(frozen=True, eq=False)
class FittedDiET:
    """A tuned copy of a model, with what explains it.

    Attributes:
        model: The student f_s, in eval mode.
        masks: Binary masks of the training samples after the last round, `(n, *cells)` of bool, on the CPU: the signal
            of each sample, the rest is distractor.
        search: How `explain` looks for masks: Q, cells, step, passes, draws; sparsity 1.
        report: Plain data: n, agreement with the original, what the masks change before and after, each round, passes
            spent, and all settings.
        seed: Seed of `explain`.
        batch_size: Of `explain`.

    Does not guarantee: that the student says of each sample what the original says; `report["agreement"]` is measured
    on the training samples, so measure it on others too.
    """

    model: nn.Module
    masks: Tensor
    search: MaskSearch
    report: dict[str, Any]
    seed: int = 0
    batch_size: int = 64

    def explain(self, x: Any, *, seed: int | None = None) -> QfaResult:
        """Masks of new samples by `qfa` on the student; no labels, no rounding, sparsity 1.

        Args:
            x: Samples of the shape that was fitted on.
            seed: Seed of the draws, instead of the fit's.
        """
        seed = self.seed if seed is None else seed
        return self.search.explain(self.model, x, batch_size=self.batch_size, seed=seed)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Save weights, masks, settings and report as one folder: `config.json` and `model.safetensors`."""
        tensors = {f"student.{k}": v for k, v in self.model.state_dict().items()} | {"masks": self.masks}
        plain: dict[str, Any] = {}
        for name in ("removal", "masker"):
            plain[name], own = to_plain(getattr(self.search, name))
            tensors |= {f"{name}.{k}": v for k, v in own.items()}
        names = [field.name for field in fields(self.search) if field.name not in ("removal", "masker")]
        search = {name: getattr(self.search, name) for name in names}
        own = {"seed": self.seed, "batch_size": self.batch_size}
        save_folder(path, {"type": _KIND, **plain, "search": search, **own, "report": self.report}, tensors)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        model: nn.Module,
        *,
        removal: Removal | None = None,
        masker: Masker | None = None,
    ) -> FittedDiET:
        """Read what `save_pretrained` wrote.

        Args:
            path: The folder.
            model: A model of the same architecture, for instance the original; it is copied, not changed.
            removal: Q, where it is of a class of your own.
            masker: Likewise.

        Raises:
            InputError: If the weights do not fit the model, or a class is not ours and not given.
            FormatError: If the folder is damaged or foreign.
        """
        config, tensors = load_folder(path, expect=_KIND)
        try:
            q = removal or from_plain(config["removal"], below(tensors, "removal."), REMOVALS, "removal")
            cells = masker or from_plain(config["masker"], below(tensors, "masker."), MASKERS, "masker")
            search = MaskSearch(q, cells, **config["search"])
            masks, rest = tensors["masks"], {k: config[k] for k in ("report", "seed", "batch_size")}
        except KeyError as error:
            raise FormatError(f"{path} has no {error}: it was not written by save_pretrained") from error
        student = copy.deepcopy(model)
        try:
            student.load_state_dict(below(tensors, "student."))
        except RuntimeError as error:
            raise InputError(
                f"the weights in {path} do not fit this model, give one like the original: {error}"
            ) from error
        return cls(student.eval(), masks, search, **rest)
