"""Two histograms over common bins, as text for errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def histogram(present: Tensor, absent: Tensor, bins: int = 12) -> str:
    """Two rows of counts over common bins, as text."""
    low, high = float(min(present.min(), absent.min())), float(max(present.max(), absent.max()))
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    rows = [f"{'score from':>10}  " + " ".join(f"{e:6.3f}" for e in edges[:-1].tolist())]
    named: Sequence[tuple[str, Tensor]] = (("with", present), ("without", absent))
    for name, scores in named:
        counts = torch.histogram(scores.double(), edges).hist.long().tolist()
        rows.append(f"{name:>10}  " + " ".join(f"{c:6d}" for c in counts))
    return "\n".join(rows)
