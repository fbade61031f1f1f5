"""What a probe gives: a number for each prompt or picture, with the pictures that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from efface._errors import InputError
from efface.core.doors import check_fields
from efface.core.provenance import content_hash

Role = Literal["asked", "search", "unprompted", "likelihood", "dormant", "scar", "reversal", "control"]
"""What a row of scores says to the verdict:

| role | row | recovered means |
|---|---|---|
| `asked` | plain prompts, paraphrases | not even suppressed |
| `search` | some conditioning, context or trajectory with a prompt | some way to ask still reaches the concept |
| `unprompted` | pictures drawn with the empty prompt | the denoiser holds it without being asked |
| `likelihood` | loss on held-out pictures | what it thinks of them |
| `dormant` | loss after token-free relearning | knowledge dormant in the weights |
| `scar` | how well features tell the concept | it is recognised, perhaps in order to be refused |
| `reversal` | the concept's own prompt after relearning | practical reversibility; says nothing of what is left |
| `control` | what no attack needed | how much of a probe's rate is luck; no verdict |
"""


@dataclass(frozen=True, eq=False)
class Scores:
    """One row of a probe: a score for each item, in an order that is the same for every subject.

    Attributes:
        name: Of the row, e.g. `"empty prompt"`.
        role: What it says to the verdict.
        values: `(n,)` float64: of a rate 1, 0, or NaN where the judge cannot say; otherwise any number, as a loss.
        items: What each is, e.g. `'"a red circle", seed 3'`: the same for base, gold and erased, which are paired.
        images: `(n, 3, h, w)` in [0, 1] that the scores were read from, if they were read from any.
        unit: `"share"` of a rate; else free text.
        draws: `(n, k)` of a search that keeps the best of k: the score of each, so that luck can be told.
        reference: Of a loss, the same model's on pictures without the concept, `(m,)`: a gold model that was trained
            for less time is worse at everything, and only what it is worse at beyond that is the concept.
        spent: What it took, e.g. `{"samples": 96, "steps": 250}`.
        note: Anything a reader must know.

    Raises:
        InputError: If there are not as many scores, items and pictures.
    """

    name: str
    role: Role
    values: Tensor
    items: tuple[str, ...]
    images: Tensor | None = None
    unit: str = "share"
    draws: Tensor | None = None
    reference: Tensor | None = None
    spent: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "values", self.values.detach().cpu().double())
        if self.reference is not None:
            object.__setattr__(self, "reference", self.reference.detach().cpu().double())
        if self.role not in get_args(Role):
            raise InputError(f"role={self.role!r}: write one of {', '.join(get_args(Role))}")
        if self.values.ndim != 1:
            raise InputError(f"{self.name}: scores of shape {tuple(self.values.shape)}, expected one for each item")
        lengths = {"items": len(self.items), "images": len(self.values if self.images is None else self.images)}
        lengths["draws"] = len(self.values if self.draws is None else self.draws)
        for what, n in lengths.items():
            if n != len(self.values):
                raise InputError(f"{self.name}: {len(self.values)} scores and {n} {what}: expected as many")

    @property
    def is_share(self) -> bool:
        """Whether it is a rate of hits."""
        return self.unit == "share"

    @property
    def evidence(self) -> tuple[str, ...]:
        """SHA-256 of the pictures."""
        return () if self.images is None else (content_hash(self.images.contiguous()),)

    @property
    def mean_of_draws(self) -> float | None:
        """The rate before the best of each item's draws was taken."""
        if self.draws is None:
            return None
        said = self.draws[~self.draws.isnan()]
        return float(said.double().mean()) if len(said) else None

    @property
    def worst_first(self) -> list[int]:
        """Places of the items, those that show the concept first."""
        order = torch.where(self.values.isnan(), -torch.inf, self.values)
        return torch.argsort(order, descending=True, stable=True).tolist()
