"""How good a map of attribution is against known truth, and how much a model listens to what is not the signal.

Every function returns one value an image, `(n,)`, so that the caller can pair methods on the same images and choose
the interval (`efface.stats.intervals`). Every selection is exactly k cells (`efface.attribution.selection`). What a
model does as cells are kept or removed is in `efface.attribution.curves`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.curves import fill
from efface.attribution.predictions import Outputs, check_inputs, check_maps, check_masks, predict
from efface.attribution.selection import as_rows, keep_cells, top_k
from efface.core.doors import check_call
from efface.stats.roc import auroc

if TYPE_CHECKING:
    from efface.attribution.removal import Removal


def iou(maps: Tensor, truth: Tensor, *, seed: int = 0) -> Tensor:
    """Intersection over union of the truth and as many top cells as the truth has, `(n,)`.

    With r the share of the truth that is among those cells, it is r / (2 - r).

    Args:
        maps: `(n, h, w)`, higher is more important.
        truth: `(n, h, w)` bool; give a tight and a loose one in turn, since the winner depends on it.
        seed: Seed of the order of equal cells.

    Raises:
        InputError: If shapes differ, a mask is empty or not boolean, or the maps are not finite.

    >>> truth = torch.tensor([[[True, True, False, False]]])
    >>> iou(torch.tensor([[[0.9, 0.1, 0.8, 0.0]]]), truth)
    tensor([0.3333])
    """
    check_call(iou, locals())
    truth = _checked_truth(maps, truth)
    wanted = truth.flatten(1).sum(1)
    chosen = top_k(maps, wanted, seed=seed)
    return (chosen & truth).flatten(1).sum(1) / (chosen | truth).flatten(1).sum(1)


def mass(maps: Tensor, truth: Tensor) -> Tensor:
    """Share of a map's positive mass that lies on the truth, `(n,)`; cells below zero count as zero.

    A map that is nowhere positive says nothing: it counts as spread evenly, so its value is the truth's share of cells.

    Raises:
        InputError: As `iou`.

    Does not guarantee: invariance to a constant added to the map; ranks (`iou`, `rank_auc`) do not change by that.
    """
    check_call(mass, locals())
    truth = _checked_truth(maps, truth)
    weights = maps.detach().flatten(1).double().clamp_min(0)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, 1.0)
    return ((weights * truth.flatten(1)).sum(1) / weights.sum(1)).float()


def rank_auc(maps: Tensor, truth: Tensor) -> Tensor:
    """Probability that a cell of the truth has a higher value than one outside, equal values counting half, `(n,)`.

    Equivalent to `sklearn.metrics.roc_auc_score(truth[i].flatten(), maps[i].flatten())` for each image. 0.5 is chance.

    Raises:
        InputError: As `iou`, or if a mask covers the whole image.
    """
    check_call(rank_auc, locals())
    truth = _checked_truth(maps, truth, proper=True)
    values, inside = maps.detach().flatten(1).cpu(), truth.flatten(1).cpu()
    areas = [auroc(x[here].double(), x[~here].double()) for x, here in zip(values, inside, strict=True)]
    return torch.tensor(areas, dtype=torch.float32, device=maps.device)


def _checked_truth(maps: Tensor, truth: Tensor, *, proper: bool = False) -> Tensor:
    """The truth where the maps are."""
    as_rows(maps)
    check_masks(truth, len(maps), proper=proper)
    if maps.shape != truth.shape:
        raise InputError(f"maps have shape {tuple(maps.shape)}, truth {tuple(truth.shape)}: expected the same")
    return truth.to(maps.device)


@dataclass(frozen=True)
class Robustness:
    """Distances between what a model says of inputs and of masked inputs.

    Attributes:
        l1: Sum over classes of the absolute difference of probabilities, mean over draws, `(n,)` in [0, 2].
        l2: Root of the sum of squares, mean over draws, `(n,)` in [0, sqrt 2].
    """

    l1: Tensor
    l2: Tensor


def q_robustness(
    model: nn.Module,
    x: Tensor,
    truth: Tensor,
    removal: Removal,
    *,
    draws: int = 1,
    outputs: Outputs = "logits",
    batch_size: int = 256,
    seed: int = 0,
) -> Robustness:
    """How far a model's probabilities move when everything but the signal is removed: E_q |f(x) - f(x_s(m, q))|.

    Small is robust: the model does not listen to the rest. Masks of 0 and 1, mostly the ground truth.

    Args:
        model: In eval mode.
        x: Inputs `(n, ...)`.
        truth: What stays, `(n, h, w)` or `(n, features)` bool.
        removal: Q.
        draws: How many q an input.
        outputs: Whether the model returns `"logits"` or `"probabilities"`.
        batch_size: Inputs a forward pass; it changes no figure.
        seed: Seed of q.

    Raises:
        InputError: As `keep_curve`, or if a mask is empty or not boolean.

    Source: Q-robustness of arXiv:2307.15007 ("verifiability" in its first version).
    """
    check_call(q_robustness, locals())
    check_inputs(x)
    check_masks(truth, len(x))
    check_maps(truth, x, "truth")
    check_positive_int(draws, "draws")
    whole = predict(model, x, outputs=outputs, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    l1, l2 = torch.zeros(2, len(x))
    for _ in range(draws):
        shown = keep_cells(x, truth, fill(removal, x, generator))
        difference = predict(model, shown, outputs=outputs, batch_size=batch_size) - whole
        l1 += difference.abs().sum(1).cpu() / draws
        l2 += difference.norm(dim=1).cpu() / draws
    return Robustness(l1, l2)


def agreement(
    model: nn.Module, original: nn.Module, x: Tensor, *, outputs: Outputs = "logits", batch_size: int = 256
) -> Tensor:
    """Whether two models say the same class, `(n,)` bool.

    Raises:
        InputError: If a model is in training mode, or the inputs are not finite.
    """
    check_call(agreement, locals())
    check_inputs(x)
    said = [predict(m, x, outputs=outputs, batch_size=batch_size).argmax(1).cpu() for m in (model, original)]
    return said[0] == said[1]
