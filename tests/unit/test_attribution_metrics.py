"""Curves against brute force, scores against scikit-learn and by hand, and what each refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from efface import InputError
from efface.attribution.controls import oracle_maps, random_maps
from efface.attribution.curves import drop_curve, keep_curve
from efface.attribution.metrics import agreement, iou, mass, q_robustness, rank_auc
from efface.stats.intervals import paired_interval
from tests.pictures import Constant, Noise, convolutional, images, linear

NAN = float("nan")


def corner(n: int, size: int, side: int) -> Tensor:
    truth = torch.zeros(n, size, size, dtype=torch.bool)
    truth[:, :side, :side] = True
    return truth


class CornerReader(nn.Module):
    """Logits that depend on the four pixels of the top left corner alone: bright is class 1."""

    def forward(self, x: Tensor) -> Tensor:
        bright = 20 * (x[:, :, :2, :2].mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)


class TestCurves:
    @pytest.mark.parametrize("kind", ["keep", "drop"])
    def test_it_is_what_a_loop_over_images_gives(self, kind: str) -> None:
        model, x = convolutional(), images(6)
        maps = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
        labels = torch.tensor([0, 1, 2, 0, 1, 2])
        fractions = (0.0, 0.1, 0.5, 1.0)
        curve = (keep_curve if kind == "keep" else drop_curve)(
            model, x, maps, Constant(0.3), labels=labels, fractions=fractions, batch_size=4
        )
        assert curve.cells == (0, 6, 32, 64) and curve.kind == kind
        for i in range(6):
            order = np.argsort(-maps[i].numpy().ravel())
            for column, k in enumerate(curve.cells):
                top = np.zeros(64, dtype=bool)
                top[order[:k]] = True
                keep = top if kind == "keep" else ~top
                changed = np.where(keep.reshape(1, 8, 8), x[i].numpy(), np.float32(0.3))
                with torch.no_grad():
                    said = model(torch.from_numpy(changed)[None]).softmax(1)[0]
                assert curve.hits[i, column] == float(said.argmax() == labels[i])
                assert curve.probability[i, column] == pytest.approx(float(said[labels[i]]), abs=1e-6)

    def test_all_kept_agrees_and_all_dropped_is_one_answer_for_all(self) -> None:
        model, x = convolutional(), images(8)
        maps = random_maps(x)
        keep = keep_curve(model, x, maps, Constant(), fractions=(1.0,))
        assert bool((keep.at(1.0) == 1).all())
        gone = drop_curve(model, x, maps, Constant(), fractions=(1.0,), labels=torch.zeros(8, dtype=torch.long))
        assert len(set(gone.probability.flatten().tolist())) == 1

    def test_the_oracle_beats_chance_where_the_corner_decides(self) -> None:
        x, truth = images(60), corner(60, 8, 2)
        x[:30, :, :2, :2], x[30:, :, :2, :2] = 0.9, 0.1
        labels = torch.tensor([1] * 30 + [0] * 30)
        curves = {
            name: keep_curve(CornerReader().eval(), x, maps, Constant(0.5), labels=labels, fractions=(4 / 64,)).at(
                4 / 64
            )
            for name, maps in (("oracle", oracle_maps(truth)), ("random", random_maps(x)))
        }
        assert float(curves["oracle"].mean()) == 1.0
        assert float(curves["random"].mean()) < 0.8
        dropped = drop_curve(CornerReader().eval(), x, oracle_maps(truth), Noise(), labels=labels, fractions=(4 / 64,))
        assert float(dropped.hits.mean()) < 0.75

    def test_batches_change_nothing_and_draws_are_averaged(self) -> None:
        model, x = convolutional(), images(7)
        maps = random_maps(x)
        one, many = (keep_curve(model, x, maps, Noise(), draws=3, batch_size=b, seed=4) for b in (2, 7))
        assert torch.equal(one.hits, many.hits)
        torch.testing.assert_close(one.probability, many.probability)
        other = keep_curve(model, x, maps, Noise(), draws=3, seed=5)
        assert not torch.equal(other.probability, one.probability)
        assert set((3 * one.hits).round(decimals=4).flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0}

    def test_area_is_that_of_trapezoids_in_any_order(self) -> None:
        curve = keep_curve(convolutional(), images(5), random_maps(images(5)), Noise(), fractions=(0.5, 0.1, 0.2))
        hits = curve.hits
        expected = (0.1 * (hits[:, 1] + hits[:, 2]) / 2 + 0.3 * (hits[:, 2] + hits[:, 0]) / 2) / 0.4
        torch.testing.assert_close(curve.area(), expected)
        with pytest.raises(InputError, match="has no fraction"):
            curve.at(0.3)

    def test_tables_and_tokens_work(self) -> None:
        table = torch.tensor([[2.0, 0.0, 1.0], [-2.0, 0.0, 1.0]])
        maps = torch.tensor([[1.0, 0.0, 0.0]] * 2)
        model = nn.Linear(3, 2)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
            model.bias.copy_(torch.tensor([0.0, 0.1]))
        curve = keep_curve(model.eval(), table, maps, Constant(), labels=torch.tensor([0, 1]), fractions=(1 / 3,))
        assert curve.hits.flatten().tolist() == [1.0, 1.0]

        class Reads(nn.Module):
            def forward(self, ids: Tensor) -> Tensor:
                seven = (ids == 7).any(1).float()
                return torch.stack([1 - 2 * seven, 2 * seven - 1], 1)

        ids = torch.tensor([[7, 1, 2, 3], [1, 2, 3, 4]])
        chosen = torch.tensor([[1.0, 0, 0, 0]] * 2)
        dropped = drop_curve(Reads().eval(), ids, chosen, Constant(0), fractions=(0.25,))
        assert dropped.hits.flatten().tolist() == [0.0, 1.0]

    def test_images_of_one_channel_that_are_not_square(self) -> None:
        x = torch.rand(3, 1, 5, 9, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model = nn.Sequential(nn.Flatten(), nn.Linear(45, 2)).eval()
        maps = torch.rand(3, 5, 9)
        for fraction, k in ((0.0, 0), (0.5, 23), (1.0, 45)):
            curve = drop_curve(model, x, maps, Constant(), fractions=(fraction,))
            assert curve.cells == (k,) and (k > 0 or bool((curve.hits == 1).all()))
        assert keep_curve(model, x[:1], maps[:1], Noise(), fractions=(0.2,)).hits.shape == (1, 1)

    def test_a_model_reads_inputs_in_its_own_dtype(self) -> None:
        model, x = convolutional(), images(5)
        maps = random_maps(x)
        one = keep_curve(model, x, maps, Constant(0.3)).probability
        two = keep_curve(convolutional().double(), x, maps, Constant(0.3)).probability
        torch.testing.assert_close(one, two)
        half = keep_curve(convolutional().bfloat16(), x, maps, Constant(0.3)).probability
        torch.testing.assert_close(one, half, atol=0.02, rtol=0)

    def test_outputs_are_taken_at_the_users_word(self) -> None:
        x, logits = images(5), convolutional()
        chances = nn.Sequential(logits, nn.Softmax(1)).eval()
        maps = random_maps(x)
        one = keep_curve(logits, x, maps, Constant())
        torch.testing.assert_close(
            one.probability, keep_curve(chances, x, maps, Constant(), outputs="probabilities").probability
        )
        with pytest.raises(InputError, match="outputs='probabilities'"):
            keep_curve(chances, x, maps, Constant())
        with pytest.raises(InputError, match="outputs='logits'"):
            keep_curve(logits, x, maps, Constant(), outputs="probabilities")


class TestTruth:
    def test_iou_of_the_truth_its_complement_and_by_hand(self) -> None:
        truth = corner(2, 8, 3)
        assert iou(truth.float(), truth).tolist() == [1.0, 1.0]
        assert iou(1 - truth.float(), truth).tolist() == [0.0, 0.0]

    @given(st.integers(0, 200))
    def test_iou_is_r_over_two_minus_r_though_maps_are_coarse(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        maps = torch.randint(3, (5, 6, 6), generator=generator).float()
        truth = torch.rand(5, 6, 6, generator=generator) < 0.4
        truth[:, 0, 0] = True
        score = iou(maps, truth, seed=seed)
        r = 2 * score / (1 + score)
        counts = truth.flatten(1).sum(1)
        torch.testing.assert_close((r * counts).round(), r * counts, atol=1e-4, rtol=0)

    def test_mass_by_hand(self) -> None:
        maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]], [[0.0, 0.0], [0.0, -1.0]]])
        truth = torch.tensor([[[True, False], [True, False]]] * 2)
        assert mass(maps, truth).tolist() == [0.75, 0.5]

    @given(st.integers(0, 200))
    def test_rank_auc_is_that_of_scikit_learn(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        maps = torch.randint(4, (3, 5, 5), generator=generator).float()
        truth = torch.rand(3, 5, 5, generator=generator) < 0.5
        truth[:, 0, 0], truth[:, 0, 1] = True, False
        expected = [roc_auc_score(t.flatten(), m.flatten()) for t, m in zip(truth, maps, strict=True)]
        np.testing.assert_allclose(rank_auc(maps, truth), expected, atol=1e-6)

    def test_values_of_each_image_are_what_intervals_take(self) -> None:
        truth = corner(30, 8, 3)
        oracle, chance = (iou(maps, truth) for maps in (oracle_maps(truth), random_maps(images(30))))
        found = paired_interval(oracle.numpy(), chance.numpy())
        assert 0.5 < found.low < found.value < found.high < 1


class TestModels:
    def test_robustness_is_zero_where_the_rest_is_not_read_and_by_hand_elsewhere(self) -> None:
        x, truth = images(4), corner(4, 8, 2)
        deaf = q_robustness(CornerReader().eval(), x, truth, Noise())
        assert float(deaf.l1.max()) == 0.0
        model = linear()
        found = q_robustness(model, x, truth, Constant(0.25))
        with torch.no_grad():
            hidden = torch.where(truth[:, None], x, 0.25 * torch.ones(()))
            difference = model(hidden).softmax(1) - model(x).softmax(1)
        torch.testing.assert_close(found.l1, difference.abs().sum(1))
        torch.testing.assert_close(found.l2, (difference**2).sum(1).sqrt())

    def test_agreement(self) -> None:
        x = images(40)
        assert bool(agreement(linear(), linear(), x).all())
        same = (linear()(x).argmax(1) == linear(seed=1)(x).argmax(1)).tolist()
        assert agreement(linear(), linear(seed=1), x).tolist() == same

    def test_models_are_untouched(self) -> None:
        model, x = convolutional(), images()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        keep_curve(model, x, random_maps(x), Noise())
        q_robustness(model, x, corner(4, 8, 3), Noise())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters()) and not model.training


GOOD: dict[str, Any] = {"model": linear(), "x": images(), "maps": torch.rand(4, 8, 8), "removal": Constant()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.rand(4, 7, 8)}, "expected (4, 8, 8)"),
        ({"maps": torch.rand(4, 3, 8, 8)}, "maps.sum(1)"),
        ({"maps": torch.full((4, 8, 8), NAN)}, "maps has NaN"),
        ({"x": torch.full((4, 3, 8, 8), NAN)}, "x has NaN"),
        ({"x": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "x.float() / 255"),
        ({"x": torch.zeros(3, 8, 8)}, "x[None]"),
        ({"x": torch.zeros(0, 3, 8, 8), "maps": torch.zeros(0, 8, 8)}, "at least one input"),
        ({"model": convolutional().train()}, "model.eval()"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()}, "two classes or more"),
        ({"model": nn.Identity().eval()}, "(4, classes)"),
        ({"model": lambda x: x}, "torch.nn.Module"),
        ({"fractions": ()}, "fractions are empty"),
        ({"fractions": (5,)}, "a share in [0, 1]"),
        ({"draws": 0}, "draws must be"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "expected 0 to 2"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0, 0.0])}, "class indices (4,)"),
        ({"labels": torch.tensor([0, 1])}, "class indices (4,)"),
        ({"removal": Constant(NAN)}, "what the removal gives has NaN"),
        ({"outputs": "logit"}, "write 'logits' or 'probabilities'"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_input_of_curves_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        keep_curve(**{**GOOD, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("score", [iou, mass, rank_auc])
@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.bool), "truth is empty in 2 of 2 images (first: 0, 1)"),
        (torch.ones(2, 4, 4), "truth > 0.5"),
        (torch.ones(2, 4, 5, dtype=torch.bool).tril(), "expected the same"),
        (torch.ones(3, 4, 4, dtype=torch.bool), "one mask a map"),
    ],
)
def test_bad_truth_is_named(score: Any, truth: Tensor, message: str) -> None:
    with pytest.raises(InputError) as caught:
        score(torch.rand(2, 4, 4), truth)
    assert message in str(caught.value)


def test_rank_auc_needs_something_outside() -> None:
    with pytest.raises(InputError, match="covers the whole image"):
        rank_auc(torch.rand(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("score", [iou, mass, rank_auc])
def test_maps_that_are_not_finite_are_refused(score: Any) -> None:
    maps = torch.rand(3, 4, 4)
    maps[2, 1, 1] = NAN
    with pytest.raises(InputError, match="in 1 of 3 rows .first rows: 2"):
        score(maps, corner(3, 4, 2))


def test_a_removal_of_another_shape_is_refused() -> None:
    class Wrong:
        def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
            return x[:, :1]

    with pytest.raises(InputError, match="return the same"):
        keep_curve(**{**GOOD, "removal": Wrong()})
