"""Mask cells: how they lie over samples, and how a masked sample is made of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efface import InputError
from efface.attribution import FeatureGroups, Grid, Segments, Superpixels, TokenClassifier, Tokens, masked
from efface.attribution.tokens import input_embedding

IMAGES = torch.rand(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])


def random_mask(masker, x, seed=0):
    return torch.rand(len(x), *masker.shape(x), generator=torch.Generator().manual_seed(seed))


class TestGrid:
    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    @pytest.mark.parametrize("upsample", [1, 2, 4])
    def test_spreads_as_interpolate_does(self, mode, upsample):
        grid = Grid(upsample, mode)
        mask = random_mask(grid, IMAGES)
        expected = F.interpolate(mask[:, None], scale_factor=upsample, mode=mode)
        assert torch.allclose(grid.expand(mask, IMAGES), expected, atol=1e-6)
        assert torch.equal(grid.map(mask, IMAGES), grid.expand(mask, IMAGES)[:, 0])

    @given(st.integers(1, 9), st.integers(9, 20), st.integers(9, 20))
    def test_any_size_gets_a_mask_of_its_size(self, upsample, h, w):
        x, grid = torch.zeros(2, 1, h, w), Grid(upsample)
        ones = torch.ones(2, *grid.shape(x))
        assert grid.expand(ones, x).shape == (2, 1, h, w)
        assert torch.allclose(grid.expand(ones, x), torch.ones(2, 1, h, w))

    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    def test_every_cell_weighs_the_same(self, mode):
        grid = Grid(4, mode)
        mask = torch.eye(12).view(12, 3, 4)
        assert torch.allclose(grid.map(mask, IMAGES[:1].expand(12, -1, -1, -1)).sum((1, 2)), torch.full((12,), 16.0))

    def test_rows_and_columns_can_be_given(self):
        assert Grid(cells=(5, 7)).shape(IMAGES) == (5, 7)
        assert Grid(cells=(5, 7)).expand(torch.ones(3, 5, 7), IMAGES).shape == (3, 1, 12, 16)


class TestSegments:
    LABELS = (torch.arange(12)[:, None] >= 6).long() * 2 + (torch.arange(16) >= 4).long()

    def test_each_pixel_has_the_value_of_its_segment(self):
        segments = Segments(self.LABELS)
        mask = random_mask(segments, IMAGES)
        assert mask.shape == (3, 4)
        assert torch.equal(segments.map(mask, IMAGES)[1, 0, 0], mask[1, 0])
        assert torch.equal(segments.map(mask, IMAGES)[1, 11, 15], mask[1, 3])


class TestSuperpixels:
    def test_they_follow_colour(self):
        # The edge runs at column 11, where no line of the regular grid of 4 columns does.
        image = torch.zeros(1, 3, 16, 16)
        image[..., 11:] = 1.0
        labels = Superpixels(4, 4).labels(image)[0]
        left, right = set(labels[:, :11].unique().tolist()), set(labels[:, 11:].unique().tolist())
        assert not left & right and len(left) > 1 and len(right) > 1

    def test_an_image_has_the_same_ones_in_any_batch(self):
        masker = Superpixels(3, 4)
        assert torch.equal(masker.labels(IMAGES)[1:2], masker.labels(IMAGES[1:2]))

    def test_bound_or_not_they_spread_alike(self):
        masker = Superpixels(3, 4)
        mask = random_mask(masker, IMAGES)
        bound = masker.on(IMAGES)
        assert torch.equal(masker.map(mask, IMAGES), bound.map(mask, IMAGES))
        assert torch.equal(masker.free(IMAGES), bound.free(IMAGES))
        for values, cells, free in zip(bound.map(mask, IMAGES), mask, masker.free(IMAGES), strict=True):
            assert set(values.unique().tolist()) == set(cells[free].tolist())


class TestFeatureGroups:
    def test_columns_of_a_group_go_together(self):
        groups = FeatureGroups(((0, 3), (1,), (2,)))
        assert groups.map(torch.tensor([[0.1, 0.2, 0.3]]), torch.zeros(1, 4)).tolist()[0] == pytest.approx(
            [0.1, 0.2, 0.3, 0.1]
        )

    def test_none_is_each_by_itself(self):
        x, mask = torch.zeros(2, 3), torch.rand(2, 3)
        assert torch.equal(FeatureGroups().map(mask, x), mask)


class Reader(nn.Module):
    """A bag of tokens with an embedding that can be found."""

    def __init__(self, two: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(10, 6)
        self.places = nn.Embedding(10, 6) if two else None
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        hidden = self.words(ids)
        if self.places is not None:
            hidden = hidden + self.places(torch.arange(ids.shape[1]))
        return self.head(torch.tanh(hidden).mean(1))


class TestTokens:
    Q = torch.full_like(IDS, 3)

    def test_ones_are_the_text_and_zeros_are_q(self):
        model, tokens = Reader(), Tokens()
        with torch.no_grad():
            assert torch.equal(tokens.outputs(model, IDS, torch.ones(2, 4), self.Q), model(IDS))
            assert torch.equal(tokens.outputs(model, IDS, torch.zeros(2, 4), self.Q), model(self.Q))

    def test_what_is_kept_is_never_removed(self):
        model, tokens = Reader(), Tokens(keep=(0,))
        with torch.no_grad():
            out = tokens.outputs(model, IDS, torch.zeros(2, 4), self.Q)
            assert torch.equal(out, model(torch.where(IDS == 0, IDS, self.Q)))
        assert tokens.map(torch.ones(2, 4), IDS).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]

    def test_the_mask_has_a_gradient_at_each_token_that_is_free(self):
        mask = torch.full((2, 4), 0.5, requires_grad=True)
        Tokens(keep=(0,)).outputs(Reader(), IDS, mask, self.Q)[:, 0].sum().backward()
        assert mask.grad is not None and torch.equal(mask.grad != 0, IDS != 0)

    def test_no_hook_stays(self):
        model = Reader()
        with pytest.raises(RuntimeError):
            Tokens().outputs(nn.Sequential(model), IDS, torch.ones(2, 4), self.Q[:, :2])
        assert not any(m._forward_hooks for m in model.modules())

    def test_the_embedding_is_found_or_named(self):
        model = Reader(two=True)
        with pytest.raises(InputError, match="'words', 'places'"):
            input_embedding(model)
        assert input_embedding(model, "words") is model.words
        with pytest.raises(InputError, match="no 'embed'"):
            input_embedding(model, "embed")
        with pytest.raises(InputError, match="an nn.Module"):
            input_embedding(lambda ids: ids)
        with pytest.raises(InputError, match="instead of"):
            Tokens(embedding="places").outputs(model, IDS, torch.ones(2, 4), self.Q)

    def test_a_wrapper_keeps_the_mode_of_its_model(self):
        assert not TokenClassifier(Reader().eval(), pad=0).training


class TestMasked:
    def test_the_mixture(self):
        m = torch.rand(3, 1, 12, 16)
        q = torch.rand_like(IMAGES)
        assert torch.allclose(masked(IMAGES, m, q), q + m * (IMAGES - q), atol=1e-6)
        assert torch.equal(masked(IMAGES, torch.ones(3, 1, 1, 1), q), IMAGES)

    def test_half_a_token_is_refused(self):
        with pytest.raises(InputError, match="masker=Tokens"):
            masked(IDS, torch.full((2, 4), 0.5), IDS)


BAD = {
    "cell larger than the image": (lambda: Grid(13).shape(IMAGES), "write upsample=12"),
    "grid larger than the image": (lambda: Grid(cells=(13, 4)).shape(IMAGES), "cells=\\(12, 16\\)"),
    "both": (lambda: Grid(2, cells=(2, 2)), "one of them"),
    "upsample": (lambda: Grid(0), "at least 1"),
    "mode": (lambda: Grid(2, "cubic"), "bilinear"),  # type: ignore[arg-type]
    "rows of a table": (lambda: Grid().shape(torch.zeros(2, 3)), "height, width"),
    "mask of another grid": (lambda: Grid(2).expand(torch.ones(3, 12, 16), IMAGES), "the grid over"),
    "float labels": (lambda: Segments(torch.zeros(2, 2)), "integers"),
    "gaps": (lambda: Segments(torch.tensor([[0, 2]])), "gaps"),
    "labels of another size": (lambda: Segments(torch.tensor([[0, 1]])).shape(IMAGES), "labels of"),
    "superpixels": (lambda: Superpixels(20, 4).shape(IMAGES), "larger than the image"),
    "compactness": (lambda: Superpixels(compactness=0), "above 0"),
    "column twice": (lambda: FeatureGroups(((0, 1), (1,))), "two places"),
    "empty group": (lambda: FeatureGroups(((0,), ())), "empty groups"),
    "column missing": (lambda: FeatureGroups(((0,),)).shape(torch.zeros(1, 2)), "\\[1\\]"),
    "column too many": (lambda: FeatureGroups(((0, 1, 2),)).shape(torch.zeros(1, 2)), "\\[2\\]"),
    "images for columns": (lambda: FeatureGroups().shape(IMAGES), "rows"),
    "floats for ids": (lambda: Tokens().shape(torch.zeros(1, 2)), "token ids"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_to_write(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint64, torch.complex64, torch.bool])
def test_ids_of_tokens_are_integers(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match="expects token ids"):
        Tokens(keep=(0,)).free(torch.zeros(2, 3, dtype=dtype))
