"""The worlds of attribution are what they claim: masks lie on what they name, sources are apart, seeds decide."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface._errors import MissingExtraError
from efface.attribution.controls import control_maps, oracle_maps
from efface.attribution.curves import keep_curve
from efface.attribution.metrics import iou
from efface.attribution.removal_images import ConstantColour
from efface_worlds.attribution import (
    WORLDS,
    Pictures,
    PictureWorld,
    accuracy,
    fit_classifier,
    make_classifier,
    make_world,
    train_classifier,
)
from efface_worlds.attribution.digits import digit_sources
from efface_worlds.attribution.objects import shape_pairs
from efface_worlds.attribution.spurious import spurious_digits


@pytest.fixture(scope="module")
def worlds() -> dict[str, PictureWorld]:
    return {name: make_world(name, 0, train=300, test=200) for name in WORLDS}


def same(a: Pictures, b: Pictures) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


@pytest.mark.parametrize("name", WORLDS)
class TestEveryWorld:
    def test_shapes_ranges_and_masks(self, name: str, worlds: dict[str, PictureWorld]) -> None:
        world = worlds[name]
        assert world.name == name and (len(world.train), len(world.test)) == (300, 200)
        for pictures in (world.train, world.test, *world.swapped.values()):
            n = len(pictures)
            assert pictures.images.shape == (n, 3, 32, 32) and pictures.images.dtype == torch.float32
            assert float(pictures.images.min()) >= 0 and float(pictures.images.max()) <= 1
            assert set(pictures.labels.tolist()) == set(range(len(world.classes)))
            tight, loose = pictures.tight.flatten(1), pictures.loose.flatten(1)
            assert bool(tight.any(1).all()) and not bool(loose.all(1).any())
            assert not bool((tight & ~loose).any())
            assert not bool((tight & pictures.distractor.flatten(1)).any())
            assert 0.03 < float(tight.float().mean()) < float(loose.float().mean()) < 0.3

    def test_the_seed_decides(self, name: str, worlds: dict[str, PictureWorld]) -> None:
        again, other = (make_world(name, seed, train=300, test=200) for seed in (0, 1))
        assert same(again.train, worlds[name].train) and same(again.test, worlds[name].test)
        assert not torch.equal(other.train.images, again.train.images)

    def test_no_image_is_in_both(self, name: str, worlds: dict[str, PictureWorld]) -> None:
        train = {image.numpy().tobytes() for image in worlds[name].train.images}
        assert not train & {image.numpy().tobytes() for image in worlds[name].test.images}

    @pytest.mark.parametrize("sizes", [{"train": 0}, {"test": -1}, {"train": 2.5}])
    def test_sizes_are_checked(self, name: str, sizes: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="integer of at least 1"):
            make_world(name, 0, **sizes)


def test_sources_are_apart_and_complete() -> None:
    train, test = digit_sources(torch.Generator().manual_seed(3))
    together = torch.cat([train.index, test.index])
    assert sorted(together.tolist()) == list(range(1797))
    assert len(test.index) == 539 and set(test.labels.tolist()) == set(range(10))


def test_images_are_drawn_with_their_own_sources() -> None:
    """The tile of an image of block digits is one of the digits of its side, pixel by pixel, up to the ground."""
    world = make_world("block digits", 5, train=20, test=20)
    generator = torch.Generator().manual_seed(
        int(torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(5))[0])
    )
    for pictures, sources in zip((world.train, world.test), digit_sources(generator), strict=True):
        tiles = torch.nn.functional.interpolate(sources.ink[:, None], size=(16, 16), mode="bilinear")[:, 0]
        for image, loose, label in zip(pictures.images, pictures.loose, pictures.labels, strict=True):
            tile = image[0][loose].view(16, 16)
            ink = (tile - tile.min()) / (1 - tile.min())
            nearest = (tiles - ink).abs().amax((1, 2)).min(0)
            assert float(nearest.values) < 0.1 and sources.labels[nearest.indices] == label


def test_hard_digits_are_white_ink_on_their_tile(worlds: dict[str, PictureWorld]) -> None:
    test = worlds["hard digits"].test
    assert float(test.images.mean(1)[test.tight].min()) >= 0.5
    # The tile's ground is one colour: where there is no ink at all, its channels have their minimum.
    for image, loose in zip(test.images[:20], test.loose[:20], strict=True):
        lowest = image[:, loose].min(1).values
        assert float((image[:, loose] == lowest[:, None]).all(0).float().mean()) > 0.2


def test_tiles_of_block_digits_have_the_same_brightness_on_average() -> None:
    test = make_world("block digits", 0, train=1, test=800).test
    gray = test.images.mean(1)
    inside = (gray * test.loose).flatten(1).sum(1) / 256
    outside = (gray * ~test.loose).flatten(1).sum(1) / 768
    error = float((inside - outside).std()) / np.sqrt(len(test))
    assert abs(float((inside - outside).mean())) < 4 * error
    # Nor does the place say anything: each quarter has the digit about as often.
    quarters = test.loose[:, ::16, ::16].flatten(1).float().mean(0)
    assert float((quarters - 0.25).abs().max()) < 4 * np.sqrt(0.25 * 0.75 / 800)


class TestSpurious:
    def test_the_patch_goes_with_the_class_and_then_does_not(self) -> None:
        world = spurious_digits(0, train=2000, test=1000)
        for pictures, expected in ((world.train, 0.95), (world.test, 0.95), (world.swapped["reversed"], 0.05)):
            agrees = (pictures.cue == (pictures.labels >= 5).long()).float().mean()
            assert abs(float(agrees) - expected) < 0.025
        assert int(world.swapped["absent"].cue.sum()) == 0

    def test_nothing_else_differs(self, worlds: dict[str, PictureWorld]) -> None:
        world = worlds["spurious digits"]
        patch = torch.zeros(32, 32, dtype=torch.bool)
        patch[:4, :4] = True
        for other in world.swapped.values():
            assert torch.equal(other.labels, world.test.labels) and torch.equal(other.tight, world.test.tight)
            assert torch.equal(other.images[..., ~patch], world.test.images[..., ~patch])
        for pictures in (world.train, world.test, *world.swapped.values()):
            shown = pictures.cue.bool()
            assert bool((pictures.images[shown][..., patch] == 1).all())
            assert torch.equal(pictures.distractor, patch & shown[:, None, None])
            assert not bool((pictures.loose & patch).any())

    @pytest.mark.parametrize("options", [{"alignment": 1.5}, {"contrast": 0.0}])
    def test_shares_are_checked(self, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="e.g."):
            spurious_digits(0, train=2, test=2, **options)


class TestShapes:
    def test_masks_lie_on_the_objects(self) -> None:
        """Every pixel that is far from both masks is ground, which depends on its row alone."""
        test = shape_pairs(0, train=1, test=50).test
        near = nn.functional.max_pool2d((test.tight | test.distractor).float()[:, None], 5, 1, 2)[:, 0] > 0
        for image, covered in zip(test.images, near, strict=True):
            for row in range(32):
                free = image[:, row, ~covered[row]]
                assert free.numel() == 0 or float((free - free[:, :1]).abs().max()) < 1e-5

    def test_the_class_is_told_by_the_signal_and_not_by_the_distractor(self) -> None:
        test = shape_pairs(1, train=1, test=1500).test
        areas = test.tight.flatten(1).sum(1).float(), test.distractor.flatten(1).sum(1).float()
        between = [torch.stack([area[test.labels == c].mean() for c in range(5)]).std() for area in areas]
        assert float(between[0]) > 5 * float(between[1])
        # Either object may be drawn on either side.
        columns = torch.arange(32.0)
        centre = (test.tight.float().sum(1) * columns).sum(1) / areas[0]
        assert 0.45 < float((centre > 15.5).float().mean()) < 0.55


class TestClassifier:
    @pytest.fixture(scope="class")
    @staticmethod
    def trained() -> tuple[PictureWorld, nn.Module]:
        world = make_world("block digits", 0, train=1200, test=200)
        return world, train_classifier(world, 0, epochs=3)

    def test_it_learns_and_is_small(self, trained: tuple[PictureWorld, nn.Module]) -> None:
        world, model = trained
        assert 40_000 < sum(p.numel() for p in model.parameters()) < 60_000
        assert accuracy(model, world.test) > 0.6 > 0.3 > accuracy(make_classifier(10, 0).eval(), world.test)
        assert not model.training and all(p.grad is None for p in model.parameters())

    def test_the_oracle_beats_chance_on_it(self, trained: tuple[PictureWorld, nn.Module]) -> None:
        world, model = trained
        test = world.test[:100]
        removal = ConstantColour.of(world.train.images)
        maps = {"oracle": oracle_maps(test.tight), "random": control_maps("random", test.images)}
        kept = {
            name: float(keep_curve(model, test.images, m, removal, labels=test.labels, fractions=(0.1,)).at(0.1).mean())
            for name, m in maps.items()
        }
        assert kept["oracle"] > kept["random"] + 0.2
        assert float(iou(maps["oracle"], test.tight).min()) == 1.0 > float(iou(maps["random"], test.tight).max())

    def test_the_seed_decides_and_chance_is_left_alone(self) -> None:
        world = make_world("shape pairs", 0, train=100, test=1)
        state = torch.get_rng_state()
        models = [train_classifier(world, seed, epochs=1) for seed in (1, 1, 2)]
        assert torch.equal(torch.get_rng_state(), state)
        weights = [model.head.weight for model in models]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(InputError, match="one label an image"):
            fit_classifier(make_classifier(3, 0), torch.rand(2, 3, 32, 32), torch.tensor([0]), seed=0)
        with pytest.raises(InputError, match="epochs must be"):
            train_classifier(make_world("shape pairs", 0, train=2, test=1), 0, epochs=0)


def test_bad_names_and_seeds() -> None:
    with pytest.raises(InputError, match="hard digits, block digits, spurious digits, shape pairs"):
        make_world("digits", 0)
    with pytest.raises(InputError, match="seed must be"):
        make_world("shape pairs", -1)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from efface_worlds.attribution import digits

    digits._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"efface\[sklearn\]"):
        make_world("hard digits", 0, train=1, test=1)


def test_slices(worlds: dict[str, PictureWorld]) -> None:
    part: Pictures = worlds["shape pairs"].test[:3]
    chosen: Tensor = torch.tensor([0, 2])
    assert len(part) == 3 and torch.equal(part[chosen].labels, part.labels[[0, 2]])
