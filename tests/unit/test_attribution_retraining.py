"""Remove and retrain: without the signal nothing is left to learn, and without other cells everything is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface.attribution.controls import random_maps
from efface.attribution.retraining import Explained, remove_and_retrain
from tests.pictures import Constant, images, linear


def world() -> tuple[Tensor, Tensor, Tensor]:
    x = 0.2 * images(120, seed=3)
    labels = torch.arange(120) % 2
    x[labels == 1, :, 2:4, 2:4] += 0.8
    truth = torch.zeros(120, 8, 8, dtype=torch.bool)
    truth[:, 2:4, 2:4] = True
    return x, labels, truth


def fit(model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()


def hits(maps: Tensor, **options: Any) -> Tensor:
    x, labels, _ = world()
    train, test = Explained(x[:80], labels[:80], maps[:80]), Explained(x[80:], labels[80:], maps[80:])
    given: dict[str, Any] = {"fit": fit, "fractions": (4 / 64, 0.5), **options}
    return remove_and_retrain(train, test, Constant(), lambda seed: linear(classes=2, seed=seed), **given)


def test_without_the_signal_nothing_is_left_to_learn() -> None:
    x, _, truth = world()
    oracle, chance = hits(truth.float()), hits(random_maps(x))
    assert oracle.shape == (40, 2) and set(oracle.unique().tolist()) <= {0.0, 1.0}
    assert float(oracle[:, 0].mean()) < 0.8 and float(chance[:, 0].mean()) > 0.95


def test_exactly_k_cells_are_gone_from_training_and_test_images_alike() -> None:
    seen: list[Tensor] = []

    def watch(model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> None:
        seen.append(x)

    hits(torch.zeros(120, 8, 8), fit=watch, fractions=(0.0, 5 / 64, 1.0))
    # Ties are all there is; where cells are removed, all channels are the constant 0.
    gone = [(x == 0).all(1).flatten(1).sum(1) for x in seen]
    assert [set(counts.tolist()) for counts in gone] == [{0}, {5}, {64}]


def test_the_seed_decides() -> None:
    x, _, _ = world()
    one, same = (hits(random_maps(x), seed=3) for _ in range(2))
    assert torch.equal(one, same)


def test_bad_input_is_named() -> None:
    x, labels, _ = world()
    with pytest.raises(InputError, match=r"expected \(120, 8, 8\)"):
        Explained(x, labels, torch.zeros(120, 4, 4))
    with pytest.raises(InputError, match="fractions are empty"):
        hits(random_maps(x), fractions=())
    with pytest.raises(InputError, match="share"):
        hits(random_maps(x), fractions=(5,))
