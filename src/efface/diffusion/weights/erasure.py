"""What every eraser of weights leaves behind: how the parameters of a pipeline's parts change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn

from efface._errors import InputError
from efface.core.concept import Concept
from efface.core.config import Config
from efface.core.doors import check_call
from efface.core.edits import Edit, OnWeights
from efface.core.erasure import Erasure
from efface.core.fingerprint import fingerprint
from efface.core.weights import Change, LowRank, Multiply, WeightDelta


@dataclass(frozen=True, eq=False, repr=False)
class WeightErasure(Erasure):
    """Weights of a pipeline's parts, changed.

    `with erasure.on(pipe):` the weights are the edited ones, and afterwards what they were, bit for bit. It goes on
    the pipeline of the fit, or one with the same weights in another floating dtype; what was fitted with another edit
    of weights on goes on with that one on.

    Does not guarantee: that the concept is gone; what each method leaves is said there.

    Attributes:
        deltas: Part of the pipeline, such as `"unet"` or `"text_encoder_2"` -> how its parameters change.
        report: Plain data: `weights` (how many parameters change), `nbytes` (size of the change), and what the fit
            found.
    """

    deltas: Mapping[str, WeightDelta]

    def __repr__(self) -> str:
        said = [*map(repr, self.names), *(f"{len(d.changes)} weights of {part}" for part, d in self.deltas.items())]
        return f"{type(self).__name__}({', '.join(said)}, {self.nbytes / 2**20:.2f} MiB)"

    @classmethod
    def made(
        cls,
        deltas: Mapping[str, WeightDelta],
        *,
        method: str,
        concepts: Sequence[Concept],
        config: Config,
        report: Mapping[str, Any] | None = None,
    ) -> Self:
        """An erasure whose report says how much changes.

        Args:
            deltas: Part of the pipeline -> how its parameters change.
            method: Name of the method in the registry.
            concepts: What is erased.
            config: The options.
            report: What else the fit found: plain data.
        """
        check_call(WeightErasure.made.__func__, locals())  # type: ignore[attr-defined]
        found = cls(deltas, method=method, concepts=tuple(concepts), config=config)
        return replace(found, report={**found.size, **(report or {})})

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The weights of each part."""
        return tuple(OnWeights(delta, part) for part, delta in self.deltas.items())

    @property
    def nbytes(self) -> int:
        """Size of the change."""
        return sum(delta.nbytes for delta in self.deltas.values())

    @property
    def size(self) -> dict[str, int]:
        """How many parameters change, and how many bytes say how."""
        return {"weights": sum(len(delta.changes) for delta in self.deltas.values()), "nbytes": self.nbytes}

    def scaled(self, by: float) -> Self:
        """The change times a number: 0 nothing, 1 the whole, more than 1 beyond it.

        Raises:
            InputError: If it multiplies weights or puts values in their place, which has no multiple.
        """
        check_call(WeightErasure.scaled, locals())
        if not math.isfinite(by):
            raise InputError(f"by={by!r}: write a finite number")
        deltas = {part: delta.scaled(by) for part, delta in self.deltas.items()}
        return replace(self, deltas=deltas, report={**(self.report or {}), "scaled": by})

    def then(self, other: WeightErasure) -> WeightErasure:
        """This one and, after it, another one that was fitted to the same weights, as one change.

        Changes that add are summed. What was fitted with this one on is joined by `a & b` instead.

        Raises:
            InputError: If they were fitted to other weights.
        """
        check_call(WeightErasure.then, locals())
        nothing = WeightDelta({})
        parts = dict.fromkeys((*self.deltas, *other.deltas))
        deltas = {p: self.deltas.get(p, nothing).then(other.deltas.get(p, nothing)) for p in parts}
        method = self.method if self.method == other.method else "joined"
        concepts = tuple(dict.fromkeys((*self.concepts, *other.concepts)))
        found = WeightErasure(deltas, method=method, concepts=concepts)
        return replace(found, report={**found.size, "of": [self.report, other.report]})

    def check(self) -> None:
        """Refuse changes whose tensors do not go together.

        Raises:
            InputError: If they do not.
        """
        if not self.deltas or not all(self.deltas):
            raise InputError("an erasure of weights names the parts of a pipeline that it changes: this one has none")
        for part, delta in self.deltas.items():
            for name, changes in delta.changes.items():
                for change in changes:
                    _check_shapes(f"{name} of {part}", change)


def _check_shapes(name: str, change: Change) -> None:
    """Refuse factors that cannot be multiplied."""
    if isinstance(change, LowRank):
        up, down = change.up, change.down
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise InputError(f"{name} has factors {tuple(up.shape)} and {tuple(down.shape)}, which have no product")
    sides = (change.left, change.right) if isinstance(change, Multiply) else ()
    for side in sides:
        if isinstance(side, Tensor) and (side.ndim != 2 or side.shape[0] != side.shape[1]):
            raise InputError(f"{name} is multiplied by {tuple(side.shape)}, which is not square")


def delta_of(model: nn.Module, changes: Mapping[str, Change | Iterable[Change]]) -> WeightDelta:
    """How a model changes, with its fingerprint as it is now.

    Args:
        model: The part of a pipeline that the changes were made for.
        changes: Name of a parameter -> its change or changes.
    """
    each = {name: (c,) if isinstance(c, Change) else tuple(c) for name, c in changes.items()}
    return WeightDelta(each, fingerprint(model))
