"""ROAR-lite: remove the top cells from training and test images alike, train anew, and see what is left to learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface.attribution.curves import fill, reference
from efface.attribution.predictions import Outputs, check_inputs, check_labels, check_maps, predict
from efface.attribution.selection import cells_of, keep_cells, ranks
from efface.core.doors import check_call, check_fields
from efface.core.inference import outside_inference

if TYPE_CHECKING:
    from efface.attribution.removal import Removal

MakeModel = Callable[[int], nn.Module]
"""Seed -> an untrained model."""

Train = Callable[[nn.Module, Tensor, Tensor, int], object]
"""Model, inputs, labels, seed: trains the model in place; what it returns is not used."""


@dataclass(frozen=True)
class Explained:
    """Inputs with their labels and maps.

    Attributes:
        x: `(n, channels, h, w)` or `(n, features)`.
        labels: `(n,)` int64.
        maps: `(n, h, w)` or `(n, features)`.
    """

    x: Tensor
    labels: Tensor
    maps: Tensor

    __repr__ = brief

    def __post_init__(self) -> None:
        check_fields(self)
        check_inputs(self.x)
        check_labels(self.labels, len(self.x))
        check_maps(self.maps, self.x)


@outside_inference
def remove_and_retrain(
    train: Explained,
    test: Explained,
    removal: Removal,
    make_model: MakeModel,
    fit: Train,
    *,
    fractions: Sequence[float] = (0.1, 0.3, 0.5),
    outputs: Outputs = "logits",
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """Which test images a model gets right that was trained without the cells that a map calls most important.

    The lower the accuracy, the more of what can be learned the map had found. Unlike the drop curve, no model sees
    images unlike those it was trained on.

    Args:
        train: Images, labels and maps to train with; their top cells are removed.
        test: Images, labels and maps to score on; likewise.
        removal: Q. One draw for each image serves all fractions.
        make_model: Seed -> an untrained model.
        fit: Trains a model in place, `fit(model, x, labels, seed)`; the model is put in eval mode afterwards.
        fractions: Shares of cells removed; a model is trained for each.
        outputs: Whether the models return `"logits"` or `"probabilities"`.
        batch_size: Test inputs a forward pass.
        seed: Seed of q, of equal cells, of the model and of its training, the same for each fraction.

    Returns:
        Hits `(n_test, f)`, 0 or 1: take means over images, and pair methods image by image.

    Raises:
        InputError: If shapes differ, a fraction is no share, or there are none.

    Does not guarantee: that a low accuracy means a right map: a map that shows the class by its *shape* leaks the label
    into the training images. One training run a fraction is noisy: repeat it over seeds.

    Source: "A Benchmark for Interpretability Methods in Deep Neural Networks" (ROAR), arXiv:1806.10758, with a small
    model and one training run a fraction.
    """
    check_call(remove_and_retrain, locals())
    if not len(fractions):
        raise InputError("fractions are empty: write some shares of cells, e.g. (0.1, 0.3, 0.5)")
    generator = torch.Generator().manual_seed(seed)
    sides = [(side, ranks(side.maps, seed=seed), fill(removal, side.x, generator)) for side in (train, test)]
    columns = []
    for share in fractions:
        k = cells_of(share, train.maps[0].numel())
        learned, shown = (keep_cells(side.x, order >= k, filling) for side, order, filling in sides)
        model = make_model(seed)
        fit(model, learned, train.labels, seed)
        wanted = reference(model.eval(), shown, test.labels, outputs=outputs, batch_size=batch_size)
        columns.append(predict(model, shown, outputs=outputs, batch_size=batch_size).argmax(1).cpu() == wanted)
    return torch.stack(columns, 1).float()
