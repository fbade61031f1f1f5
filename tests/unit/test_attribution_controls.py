"""Control maps know what they should and nothing else; training controls spend what they are given, on a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from efface import InputError
from efface.attribution.controls import CONTROLS, control_maps, edge_maps, oracle_maps
from efface.attribution.maskers import Grid
from efface.attribution.metrics import iou, q_robustness
from efface.attribution.tuning import input_dropout, random_mask_distillation, saliency_guided
from tests.pictures import Constant, Noise, convolutional, images, seeded


def blob(n: int = 3, size: int = 8) -> Tensor:
    truth = torch.zeros(n, size, size, dtype=torch.bool)
    truth[:, 1:4, 3:6] = True
    return truth


class TestMaps:
    @pytest.mark.parametrize("name", CONTROLS)
    def test_each_is_a_map_that_depends_on_nothing_hidden(self, name: str) -> None:
        x = images(3)
        before = x.clone()
        maps = control_maps(name, x, seed=1)
        assert maps.shape == (3, 8, 8) and torch.equal(x, before)
        assert torch.equal(maps, control_maps(name, x, seed=1))

    def test_random_is_by_seed(self) -> None:
        x = images(2)
        assert not torch.equal(control_maps("random", x, seed=1), control_maps("random", x, seed=2))

    def test_centre_falls_with_the_distance(self) -> None:
        maps = control_maps("centre", torch.zeros(1, 1, 3, 5))[0]
        assert maps.argmax() == 7 and float(maps[1, 2]) == 0.0
        assert float(maps[0, 0]) == pytest.approx(-np.hypot(1, 2))

    def test_edges_are_those_of_scipy(self) -> None:
        x = images(2, size=9)
        expected: Any = [
            sum(np.hypot(*(ndimage.sobel(channel, axis=axis, mode="nearest") for axis in (0, 1))) for channel in image)
            for image in x.numpy()
        ]
        np.testing.assert_allclose(edge_maps(x), expected, atol=1e-5)

    def test_a_constant_image_has_no_edges_even_at_its_border(self) -> None:
        assert float(edge_maps(torch.full((1, 3, 6, 6), 0.7)).abs().max()) < 1e-6

    def test_the_oracle_is_the_truth_and_coarser_ones_are_worse_but_better_than_chance(self) -> None:
        truth = blob()
        scores = [float(iou(oracle_maps(truth, upsampling=u), truth).mean()) for u in (1, 2, 4)]
        chance = float(iou(control_maps("random", images(3)), truth).mean())
        assert scores[0] == 1.0 > scores[1] > scores[2] > chance

    def test_a_mask_on_the_grid_survives_its_resolution(self) -> None:
        truth = torch.zeros(1, 8, 8, dtype=torch.bool)
        truth[:, 2:6, 2:6] = True
        assert float(iou(oracle_maps(truth, upsampling=2), truth)) == 1.0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: control_maps("noise", images()), "random, brightness, centre, edge"),
            (lambda: control_maps("edge", torch.zeros(2, 5)), "images (n, channels, h, w)"),
            (lambda: oracle_maps(blob(), upsampling=3), "divisible"),
            (lambda: oracle_maps(blob().float()), "truth > 0.5"),
            (lambda: oracle_maps(torch.zeros(1, 4, 4, dtype=torch.bool)), "truth is empty"),
        ],
    )
    def test_bad_input_is_named(self, call: Any, message: str) -> None:
        with pytest.raises(InputError) as caught:
            call()
        assert message in str(caught.value)


def labels_of(n: int) -> Tensor:
    return torch.arange(n) % 3


CALLS: dict[str, Any] = {
    "random masks": lambda model, x, **k: random_mask_distillation(model, x, Noise(), Grid(2), **k),
    "input dropout": lambda model, x, **k: input_dropout(model, x, labels_of(len(x)), Noise(), **k),
    "saliency guided": lambda model, x, **k: saliency_guided(model, x, labels_of(len(x)), **k),
}
COST = {"random masks": 2, "input dropout": 1, "saliency guided": 3}


class Counting(nn.Module):
    """Counts inputs that go forwards, in copies of itself too."""

    def __init__(self, model: nn.Module, seen: list[int]) -> None:
        super().__init__()
        self.model, self.seen = model, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x) if torch.is_grad_enabled() else 0)
        return self.model(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
        import copy

        return Counting(copy.deepcopy(self.model, memo), self.seen)


@pytest.mark.parametrize("name", CALLS)
class TestTraining:
    @pytest.mark.parametrize("passes", [60, 100, 131])
    def test_it_spends_what_it_is_given_and_says_so(self, name: str, passes: int) -> None:
        seen: list[int] = []
        tuned = CALLS[name](Counting(convolutional(), seen).eval(), images(9), passes=passes, batch_size=4)
        assert sum(seen) == tuned.passes <= passes < tuned.passes + 2 * COST[name]

    def test_the_original_is_untouched_and_the_copy_is_not(self, name: str) -> None:
        model, x = convolutional(), images(8)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        tuned = CALLS[name](model, x, passes=96, batch_size=4, rate=1e-2, batch_norm="train")
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters()) and not model.training
        changed = [k for k, v in tuned.model.state_dict().items() if not torch.equal(v, before[k])]
        assert "0.weight" in changed and "1.running_mean" in changed
        assert not any(m.training for m in tuned.model.modules())
        assert all(p.grad is None for p in tuned.model.parameters())

    def test_frozen_batch_norm_keeps_its_statistics(self, name: str) -> None:
        model = convolutional()
        tuned = CALLS[name](model, images(8), passes=96, batch_size=4, rate=1e-2)
        for key, value in tuned.model.state_dict().items():
            if "running" in key:
                assert torch.equal(value, model.state_dict()[key]), key
        assert not torch.equal(tuned.model.state_dict()["0.weight"], model.state_dict()["0.weight"])

    def test_same_seed_same_bits_and_global_chance_is_left_alone(self, name: str) -> None:
        state = torch.get_rng_state()
        runs = [CALLS[name](convolutional(), images(8), passes=60, batch_size=4, seed=s) for s in (1, 1, 2)]
        assert torch.equal(torch.get_rng_state(), state)
        assert runs[0].losses == runs[1].losses != runs[2].losses

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"passes": 1}, "expected two inputs and"),
            ({"passes": 60, "rate": 0.0}, "a number above 0"),
            ({"passes": 60, "rate": 1e30}, "write a smaller rate"),
            ({"passes": 60, "batch_norm": "off"}, "frozen"),
            ({"passes": 60, "outputs": "probabilities"}, "outputs='logits'"),
        ],
    )
    def test_bad_input_is_named(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError) as caught:
            CALLS[name](convolutional(), images(8), **{"batch_size": 4, **options})
        assert message in str(caught.value)

    def test_a_model_in_training_mode_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match=r"model.eval\(\)"):
            CALLS[name](convolutional().train(), images(8), passes=60)


def test_random_masks_make_a_model_robust() -> None:
    """A linear model that hears all pixels learns to say the same when most of them are noise."""
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    x, truth = images(64), blob(64)
    tuned = random_mask_distillation(model, x, Noise(), Grid(2), passes=6000, rate=3e-3, weight=0.2)
    before, after = (float(q_robustness(m, x, truth, Noise(), seed=3).l1.mean()) for m in (model, tuned.model))
    assert after < 0.8 * before
    assert np.mean(tuned.losses[-5:]) < np.mean(tuned.losses[:5])


def test_saliency_guided_hides_what_has_the_lowest_gradient() -> None:
    """Only the first feature is read: with half of two hidden, the second is replaced and the loss is plain CE."""

    class Recording(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return self.scale * torch.stack([x[:, 0], -x[:, 0]], 1)

    seen: list[Tensor] = []
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    tuned = saliency_guided(Recording().eval(), x, torch.tensor([0, 0]), passes=6, batch_size=2)
    shown = seen[-1]
    assert sorted(shown[:, 0].tolist()) == [1.0, 3.0]
    assert not bool(torch.isin(shown[:, 1], x).any()) and bool((shown[:, 1] > 1).all())
    expected = -torch.stack([x[:, 0], -x[:, 0]], 1).log_softmax(1)[:, 0].mean()
    assert tuned.losses[0] == pytest.approx(float(expected))


def test_cells_that_may_not_be_removed_stay() -> None:
    """With every cell fixed, x_s is x: the student hears nothing new and has nothing to learn."""

    class Fixed(Grid):
        def free(self, x: Tensor) -> Tensor:
            return super().free(x) & False

    model = convolutional()
    tuned = random_mask_distillation(model, images(8), Noise(), Fixed(2), passes=64, rate=1e-2)
    assert max(tuned.losses) < 1e-5


@pytest.mark.parametrize("name", ["input dropout", "saliency guided"])
def test_labels_must_be_classes_of_the_model(name: str) -> None:
    for labels in (labels_of(8) + 1, labels_of(8) - 1, labels_of(7)):
        call = {"input dropout": lambda m, x, y, **k: input_dropout(m, x, y, Noise(), **k)}.get(name, saliency_guided)
        with pytest.raises(InputError, match="expected"):
            call(convolutional(), images(8), labels, passes=60)


def test_a_share_and_a_grid_must_fit() -> None:
    with pytest.raises(InputError, match="larger than the image"):
        random_mask_distillation(convolutional(), images(8), Constant(), Grid(9), passes=60)
    with pytest.raises(InputError, match="keep is 1"):
        random_mask_distillation(convolutional(), images(8), Constant(), Grid(2), passes=60, keep=1)
