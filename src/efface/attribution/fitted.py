"""What DiET leaves behind: weights that no longer listen to distractors, and the masks they were tuned with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from efface._errors import InputError
from efface.attribution.mask_search import MaskSearch, QfaResult
from efface.core.codec import TENSOR, TYPE
from efface.core.doors import check_call
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.inference import outside_inference
from efface.core.weights import WeightDelta
from efface.core.writing import holds, write

_PARTS = ("removal", "masker")


@dataclass(frozen=True, eq=False, repr=False)
class DietErasure(Erasure):
    """A classifier's weights after DiET, with what explains it.

    `with fitted.on(model):` the model is the tuned one; `fitted.student(model)` is a tuned copy of it.

    Attributes:
        delta: What tuning changed, bit for bit.
        masks: Binary masks of the training samples after the last round, `(n, *cells)` of bool, on the CPU: the signal
            of each sample, the rest is distractor.
        search: How `explain` looks for masks: Q, cells, step, passes, draws; sparsity 1.
        seed: Seed of `explain`.
        batch_size: Of `explain`.
        report: Plain data: n, agreement with the original, what the masks change before and after, each round, passes
            spent, and all settings.

    Does not guarantee: that the student says of each sample what the original says; `report["agreement"]` is measured
    on the training samples, so measure it on others too.
    """

    delta: WeightDelta
    masks: Tensor
    search: MaskSearch
    seed: int = 0
    batch_size: int = 64
    method: str = field(default="diet", kw_only=True)

    legacy_types = ("diet",)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The weights."""
        return (OnWeights(self.delta),)

    @outside_inference
    def student(self, model: nn.Module, *, check: bool = True) -> nn.Module:
        """The tuned copy f_s of a model, in eval mode; the model is not changed.

        Args:
            model: The model of the fit, or one of the same architecture.
            check: Refuse one with other weights than those of the fit.

        Raises:
            InputError: If the weights do not fit the model.
        """
        check_call(DietErasure.student, locals())
        found = copy.deepcopy(model).eval()
        write(found, self.delta, name="the tuned copy", check=check)
        return found

    @outside_inference
    def explain(self, student: nn.Module, x: Any, *, seed: int | None = None) -> QfaResult:
        """Masks of new samples by `qfa` on the student; no labels, no rounding, sparsity 1.

        Args:
            student: What `student(model)` made, or the model with the erasure on.
            x: Samples of the shape that was fitted on.
            seed: Seed of the draws, instead of the fit's.

        Raises:
            InputError: If this is not the tuned model.
        """
        check_call(DietErasure.explain, locals())
        if not holds(student, self.delta):
            raise InputError("this model is not tuned: write fitted.explain(fitted.student(model), x)")
        seed = self.seed if seed is None else seed
        return self.search.explain(student, x, batch_size=self.batch_size, seed=seed)

    @classmethod
    def upgraded(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A file of format 1, which has all weights of the student."""
        weights = {n.removeprefix("student."): {TYPE: "Put", "value": {TENSOR: n}} for n in _below(tensors, "student.")}
        search = {**plain["search"], **{name: _with_tensors(plain[name], tensors, name) for name in _PARTS}}
        delta = {"changes": {name: [put] for name, put in weights.items()}}
        rest = {name: plain[name] for name in ("seed", "batch_size", "report") if name in plain}
        return {**rest, "delta": delta, "search": search, "masks": {TENSOR: "masks"}}, tensors


def _below(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name for name in tensors if name.startswith(prefix)]


def _with_tensors(plain: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    own = {TYPE: plain["type"], **{k: v for k, v in plain.items() if k != "type"}}
    return {**own, **{key.removeprefix(f"{name}."): {TENSOR: key} for key in _below(tensors, f"{name}.")}}
