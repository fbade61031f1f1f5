"""Platt scaling: scores of a classifier become probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def platt(scores: Tensor, labels: Tensor, *, iterations: int = 100) -> tuple[float, float]:
    """Slope a and shift b of `sigmoid(a score + b)`, by Newton's method on Platt's targets.

    These are `(m + 1) / (m + 2)` for m scores with the concept, and `1 / (m' + 2)` for m' without.

    Args:
        scores: `(n,)`.
        labels: `(n,)`, 0 or 1.
        iterations: At most.

    Source: Lin, Lin and Weng, "A note on Platt's probabilistic outputs for support vector machines" (2007).
    """
    s, y = scores.detach().double().cpu(), labels.double().cpu()
    present, absent = float(y.sum()), float((1 - y).sum())
    target = torch.where(y > 0, (present + 1) / (present + 2), 1 / (absent + 2))
    design = torch.stack([s, torch.ones_like(s)], 1)
    w = torch.tensor([0.0, float(torch.logit(torch.tensor((present + 1) / (present + absent + 2))))]).double()

    def loss(w: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(design @ w, target, reduction="sum")

    for _ in range(iterations):
        p = torch.sigmoid(design @ w)
        slope = design.T @ (p - target)
        curve = design.T @ (design * (p * (1 - p))[:, None]) + 1e-12 * torch.eye(2).double()
        step, size, before = torch.linalg.solve(curve, slope), 1.0, loss(w)
        while size > 1e-8 and loss(w - size * step) > before - 1e-4 * size * (slope @ step):
            size /= 2
        w = w - size * step
        if float(slope.abs().max()) < 1e-8 * len(s):
            break
    return float(w[0]), float(w[1])
