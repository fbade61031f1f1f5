"""What stands where something is removed: each Q is what it says, by sample, by seed, and on what it fits."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.ndimage import gaussian_filter

from efface import EffaceWarning, FormatError, InputError
from efface.attribution import Blur, ConstantColour, Marginal, Removal, TabularGaussian, TokenMask
from efface.attribution.masking import draw
from efface.core.codec import TYPE, decoded, encoded
from efface.training.seeds import generators

IMAGES = torch.rand(6, 3, 8, 10, generator=torch.Generator().manual_seed(1))
TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
IDS = torch.arange(12).view(2, 6)

REMOVING = {
    "colour": (ConstantColour.of(IMAGES), IMAGES),
    "pixels": (Marginal(IMAGES), IMAGES),
    "images": (Marginal(IMAGES, unit="sample"), IMAGES),
    "columns": (Marginal(TABLE), TABLE),
    "tokens of others": (Marginal(IDS), IDS),
    "blur": (Blur(1.5), IMAGES),
    "gaussian": (TabularGaussian.of(TABLE), TABLE),
    "token": (TokenMask(103), IDS),
}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("removal", "x"), REMOVING.values(), ids=REMOVING)
class TestAll:
    def test_a_draw_has_the_shape_and_type_of_the_sample(self, removal, x):
        assert isinstance(removal, Removal)
        for given in (x, x.double()) if x.is_floating_point() else (x,):
            q = removal.sample(given, source())
            assert q.shape == x.shape and q.dtype == given.dtype

    def test_draws_are_fresh_and_come_from_the_generator_alone(self, removal, x):
        before, state = x.clone(), torch.get_rng_state()
        one, same = removal.sample(x, source()), removal.sample(x, source())
        generator = source()
        first, second = removal.sample(x, generator), removal.sample(x, generator)
        assert torch.equal(one, same) and torch.equal(one, first)
        assert torch.equal(first, second) is (not removal.random)
        assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)

    def test_a_sample_is_drawn_for_by_itself(self, removal, x):
        whole = draw(removal, x, generators(3, range(len(x))))
        alone = draw(removal, x[1:2], generators(3, [1]))
        assert torch.equal(whole[1:2], alone)

    def test_it_survives_a_file(self, removal, x):
        plain, tensors = encoded(removal)
        back = decoded(json.loads(json.dumps(plain)), tensors, Removal)
        assert torch.equal(back.sample(x, source()), removal.sample(x, source()))


class TestConstantColour:
    def test_one_colour_an_image_within_the_range(self):
        q = ConstantColour((0.5, 0.1, 0.9), (0.4, 0.4, 0.4)).sample(torch.zeros(400, 3, 2, 2), source())
        assert (q == q[..., :1, :1]).all() and float(q.min()) == 0 and float(q.max()) == 1

    def test_its_moments_are_those_that_were_asked_for(self):
        q = ConstantColour((1.0, -2.0), (0.5, 3.0), low=-50, high=50).sample(torch.zeros(20000, 2, 1, 1), source())
        assert q.flatten(1).mean(0) == pytest.approx([1.0, -2.0], abs=4 * 3 / 20000**0.5)
        assert q.flatten(1).std(0) == pytest.approx([0.5, 3.0], rel=0.03)

    def test_of_a_data_set(self):
        found = ConstantColour.of(IMAGES.numpy())
        pixels = IMAGES.double().movedim(1, 0).flatten(1)
        assert found.mean == pytest.approx(pixels.mean(1).tolist())
        assert found.std == pytest.approx(pixels.std(1, correction=0).tolist())

    def test_of_more_images_than_are_read_at_once(self):
        many = torch.rand(700, 2, 3, 5, generator=source(4)) * torch.tensor([1.0, 0.1]).view(2, 1, 1)
        found = ConstantColour.of(many)
        std, mean = torch.std_mean(many.double(), dim=(0, 2, 3), correction=0)
        assert found.mean == pytest.approx(mean.tolist(), rel=1e-12)
        assert found.std == pytest.approx(std.tolist(), rel=1e-12)


class TestMarginal:
    def test_a_pixel_keeps_its_channels_and_its_place(self):
        q = Marginal(IMAGES).sample(IMAGES, source())
        same = (q[:, None] == IMAGES[None]).all(dim=2)  # (n, reference, h, w)
        assert same.any(dim=1).all() and not same.all(dim=(2, 3)).any()

    def test_a_whole_sample(self):
        q = Marginal(TABLE, unit="sample").sample(TABLE, source())
        assert all((row == TABLE).all(1).any() for row in q)

    def test_columns_are_drawn_apart(self):
        both = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        q = Marginal(both).sample(torch.zeros(4000, 2), source())
        assert float((q[:, 0] == q[:, 1]).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_blur_is_a_gaussian_filter():
    expected = gaussian_filter(IMAGES.numpy(), (0, 0, 1.5, 1.5), mode="nearest", truncate=10 / 3)
    assert Blur(1.5).sample(IMAGES, source()) == pytest.approx(expected, abs=2e-6)


class TestTabularGaussian:
    def test_covariance(self):
        cov = torch.tensor([[2.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 0.0]])
        q = TabularGaussian(torch.tensor([1.0, 2.0, 3.0]), cov=cov).sample(
            torch.zeros(40000, 3, dtype=torch.float64), source()
        )
        assert torch.allclose(torch.cov(q.T), cov.double(), atol=0.05)
        assert torch.allclose(q.mean(0), torch.tensor([1.0, 2.0, 3.0]).double(), atol=0.03)
        assert (q[:, 2] == 3).all()

    def test_of_a_table(self):
        found = TabularGaussian.of(TABLE)
        assert found.cov is not None and torch.allclose(found.cov, torch.cov(TABLE.double().T, correction=0))


BAD = {
    "0 to 255": (lambda: ConstantColour((0.5,) * 3, (0.1,) * 3).check(IMAGES * 255), "write x / 255"),
    "normalised": (lambda: Blur(1.0).check(IMAGES - 1), "low=-"),
    "uint8": (lambda: Blur(1.0).check((IMAGES * 255).to(torch.uint8)), "x.float\\(\\) / 255"),
    "no images": (lambda: Blur(1.0).check(TABLE), "height, width"),
    "channels": (lambda: ConstantColour((0.5,), (0.1,)).check(IMAGES), "3 channels"),
    "nan images": (lambda: ConstantColour.of(IMAGES / 0 * 0), "values are NaN"),
    "no image": (lambda: ConstantColour.of(IMAGES[:0]), "one sample at least"),
    "std below 0": (lambda: ConstantColour((0.5,), (-0.1,)), "at least 0"),
    "lengths": (lambda: ConstantColour((0.5, 0.5), (0.1,)), "2 means and 1 stds"),
    "range": (lambda: ConstantColour((0.5,), (0.1,), low=1, high=0), "least and the greatest"),
    "colour is nan": (lambda: ConstantColour((float("nan"),), (0.1,)), "finite"),
    "sigma": (lambda: Blur(0.0), "above 0"),
    "unit": (lambda: Marginal(IMAGES, unit="pixel"), 'write "feature"'),  # type: ignore[arg-type]
    "empty reference": (lambda: Marginal(IMAGES[:0]), "at least one"),
    "nan reference": (lambda: Marginal(TABLE / 0), "NaN or infinite"),
    "other shape": (lambda: Marginal(IMAGES).check(IMAGES[..., :4]), "same shape"),
    "ids for floats": (lambda: Marginal(TABLE).check(torch.ones(2, 4).long()), "convert one"),
    "declared range": (lambda: Marginal(TABLE, low=-0.1, high=0.1).check(TABLE), "declares"),
    "no spread": (lambda: TabularGaussian(torch.zeros(2)), "either std= or cov="),
    "two spreads": (lambda: TabularGaussian(torch.zeros(1), std=torch.ones(1), cov=torch.ones(1, 1)), "either"),
    "spread shape": (lambda: TabularGaussian(torch.zeros(2), std=torch.ones(3)), "expected"),
    "not symmetric": (lambda: TabularGaussian(torch.zeros(2), cov=[[1.0, 2.0], [0.0, 1.0]]), "symmetric"),  # type: ignore[arg-type]
    "no covariance": (lambda: TabularGaussian(torch.zeros(2), cov=[[1.0, 2.0], [2.0, 1.0]]), "eigenvalue"),  # type: ignore[arg-type]
    "one row": (lambda: TabularGaussian.of(TABLE[:1]), "two rows"),
    "columns": (lambda: TabularGaussian.of(TABLE).check(TABLE[:, :2]), "rows \\(n, 4\\)"),
    "token id": (lambda: TokenMask("[MASK]"), "mask_token_id"),  # type: ignore[arg-type]
    "floats for ids": (lambda: TokenMask(1).check(TABLE), "token ids"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_to_write(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_files_of_others_are_refused():
    with pytest.raises(FormatError, match="'Mine', which this efface does not know"):
        decoded({TYPE: "Mine"}, {}, Removal)
    with pytest.raises(FormatError, match="damaged"), pytest.warns(EffaceWarning, match="radius"):
        decoded({TYPE: "Blur", "radius": 1}, {}, Removal)
