"""The best of several draws an item: chosen by the selector, scored by the judge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.scores import Role, Scores


def best_of(name: str, role: Role, draws: Tensor, items: tuple[str, ...], case: Case, **more: Any) -> Scores:
    """Scores of the draw of each item that the selector likes best.

    Every draw is scored too: of N draws that hit with probability p by luck alone, the best hits with 1 - (1 - p)^N.

    Args:
        name: Of the row.
        role: Of the row.
        draws: `(n, k, 3, h, w)` in [0, 1].
        items: What each of the n is.
        case: Who selects and who judges.
        **more: Further fields of `Scores`.
    """
    n, k = draws.shape[:2]
    flat = draws.flatten(0, 1)
    liked, seen = case.liked(flat).view(n, k), case.seen(flat).view(n, k)
    best = liked.argmax(dim=1)
    rows = torch.arange(n)
    return Scores(name, role, seen[rows, best], items, draws[rows, best], draws=seen, **more)
