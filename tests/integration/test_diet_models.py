"""Masks and students of tables, of text, and of image classifiers of other kinds than a small ReLU network."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface.attribution import (
    Blur,
    ConstantColour,
    DiET,
    FeatureGroups,
    Grid,
    Marginal,
    Segments,
    Superpixels,
    TabularGaussian,
    TokenClassifier,
    TokenMask,
    Tokens,
    attribute,
    input_dropout,
    iou,
    keep_curve,
    qfa,
    random_mask_distillation,
    saliency_guided,
)
from efface_worlds import load_minilm, make_sentences
from tests.squares import colour_net, equal, quick_diet, source, squares, state_of, trained


class Attending(nn.Module):
    """A small vision transformer: no convolution with overlap, no batch normalisation, no ReLU."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 16, 4, stride=4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).mT).mean(1))


class Residual(nn.Module):
    """Group normalisation, ReLU in place, one weight used twice."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm, self.relu = nn.GroupNorm(2, 8), nn.ReLU(inplace=True)
        self.same, self.again = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.again.weight = self.same.weight
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.first(x)))
        hidden = hidden + self.again(self.relu(self.same(hidden)))
        return self.head(hidden.amax((2, 3)))


def bars(n: int, channels: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Images on noise with a bright bar, standing or lying: the class."""
    generator = source(1)
    x, labels = 0.4 * torch.rand(n, channels, h, w, generator=generator), torch.arange(n) % 2
    for image, label in zip(x, labels, strict=True):
        row, column = (int(torch.randint(side - 5, (), generator=generator)) for side in (h, w))
        image[:, row : row + (2 if label else 5), column : column + (5 if label else 2)] = 0.9
    return x, labels


@pytest.mark.parametrize("kind", [Attending, Residual])
@pytest.mark.parametrize(("channels", "h", "w", "upsample"), [(3, 12, 12, 2), (1, 9, 14, 2), (2, 8, 13, 3)])
class TestAnyImageClassifier:
    """Of one channel, not square, and with a grid that does not divide the sides, too."""

    def build(self, kind, channels, h, w, upsample):
        x, labels = bars(32, channels, h, w)
        torch.manual_seed(1)
        model = trained(kind(channels, 2), x, labels, steps=80)
        return model, x, DiET(ConstantColour((0.2,) * channels, (0.1,) * channels), Grid(upsample), **SHORT)

    def test_masks_and_student(self, kind, channels, h, w, upsample):
        model, x, diet = self.build(kind, channels, h, w, upsample)
        before = state_of(model)
        fitted = diet.fit(model, x)
        cells = -(-h // upsample), -(-w // upsample)
        student = fitted.student(model)
        found = fitted.explain(student, x[:3])
        assert fitted.masks.shape == (32, *cells) and found.maps.shape == (3, h, w)
        assert 0 < fitted.report["kept"] < 1 and fitted.report["agreement"] >= 0.9
        assert float(found.masks.min()) >= 0 and float(found.masks.max()) <= 1
        assert equal(state_of(model), before) and not equal(state_of(student), before)

    def test_one_image_gets_the_mask_that_it_gets_among_others(self, kind, channels, h, w, upsample):
        model, x, diet = self.build(kind, channels, h, w, upsample)
        settings = {"removal": diet.removal, "masker": diet.masker, "step": 0.1, "steps": 12}
        alone, among = qfa(model, x[:1], **settings).masks, qfa(model, x, **settings).masks
        assert torch.allclose(alone[0], among[0], atol=1e-3)
        assert diet.fit(model, x[:1]).masks.shape == alone.shape


@pytest.mark.parametrize("removal", [Blur(2.0), Marginal(squares()[0][:20]), ConstantColour.of(squares()[0])])
@pytest.mark.parametrize(
    "masker", [Grid(4, "nearest"), Superpixels(4, 4), Segments((torch.arange(144).view(12, 12) // 12) // 2)]
)
def test_every_removal_of_images_goes_with_every_masker(removal, masker):
    net, (x, _, _) = colour_net(), squares(32)
    diet = replace(quick_diet(), removal=removal, masker=masker, rounds=1, epochs=1, least_agreement=0.0)
    fitted = diet.fit(net, x)
    assert fitted.masks.shape == (32, *masker.shape(x)) and fitted.explain(fitted.student(net), x[:2]).maps.shape == (
        2,
        12,
        12,
    )
    assert fitted.report["passes"] == 32 * (15 + 2)
    control = random_mask_distillation(net, x, removal, masker, passes=fitted.report["passes"])
    assert 0 <= fitted.report["passes"] - control.passes < 4


SHORT = {"step": 0.1, "steps": 12, "rounds": 1, "epochs": 1, "rate": 1e-3, "stop": 0.0, "least_agreement": 0.9}


@pytest.mark.parametrize(("dtype", "room"), [(torch.float64, 1e-3), (torch.bfloat16, 0.05), (torch.float16, 0.02)])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_models_of_other_dtypes(dtype, room, outputs):
    """The masks are those of the float32 model, but for what the model's own rounding does."""
    net, (x, _, _) = colour_net(), squares(32)
    whole = nn.Sequential(net, nn.Softmax(1)).eval() if outputs == "probabilities" else net
    diet = replace(quick_diet(), outputs=outputs, epochs=1, rounds=1, least_agreement=0.5)
    settings = {"removal": diet.removal, "masker": diet.masker, "step": 0.1, "steps": 15, "outputs": outputs}
    expected = qfa(whole, x, **settings)
    found = qfa(copy.deepcopy(whole).to(dtype), x, **settings)
    assert found.masks.dtype == torch.float32
    assert float((found.masks - expected.masks).abs().mean()) < room
    if dtype == torch.float16:
        with pytest.raises(InputError, match="tune float16 models in float32"):
            diet.fit(copy.deepcopy(whole).to(dtype), x)
        return
    narrow = copy.deepcopy(whole).to(dtype)
    student = diet.fit(narrow, x).student(narrow)
    assert next(student.parameters()).dtype == dtype
    curve = keep_curve(student, x, found.maps, diet.removal, outputs=outputs, fractions=(1.0,))
    assert bool((curve.at(1.0) == 1).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_and_samples_that_are_not():
    net, (x, labels, signal), diet = colour_net(), squares(), quick_diet()
    on_gpu = copy.deepcopy(net).cuda()
    fitted, state = diet.fit(on_gpu, x), torch.cuda.get_rng_state()
    student = fitted.student(on_gpu)
    maps = fitted.explain(student, x).maps
    near = qfa(net, x, removal=diet.removal, masker=diet.masker).masks
    assert float((qfa(on_gpu, x, removal=diet.removal, masker=diet.masker).masks - near).abs().mean()) < 0.02
    for given in (x, x.cuda()):
        assert keep_curve(student, given, maps, diet.removal, labels=labels).hits.shape == (96, 5)
        found = attribute("smoothgrad", on_gpu, given)
        assert found.device == given.device and float(iou(found, signal).mean()) > 0.2
        assert input_dropout(on_gpu, given, labels, diet.removal, passes=200).passes <= 200
        assert saliency_guided(on_gpu, given, labels, passes=200).passes <= 200
        assert random_mask_distillation(on_gpu, given, diet.removal, diet.masker, passes=200).passes <= 200
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_a_tabular_network():
    generator = source()
    x = torch.randn(200, 8, generator=generator)
    labels = (x[:, 1] + x[:, 4] > 0).long()
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), x, labels, steps=200)
    diet = DiET(TabularGaussian.of(x), FeatureGroups(), draws=4, rate=1e-3, least_agreement=0.9)
    fitted = diet.fit(model, x)
    assert fitted.masks.shape == (200, 8)
    maps = fitted.explain(fitted.student(model), x).maps
    assert set(maps.mean(0).topk(2).indices.tolist()) == {1, 4}
    assert fitted.report["change"]["student"] < fitted.report["change"]["model"]


class TestMiniLM:
    """The real MiniLM with a head that was trained to tell the field of work; the occupation is what tells it."""

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls):
        world = make_sentences(jobs=8, templates=4)
        tokenizer, encoder = load_minilm()
        ids = tokenizer(list(world.text), padding=True, return_tensors="pt")["input_ids"]
        model = TokenClassifier(encoder, tokenizer.pad_token_id, nn.Identity()).eval()
        labels = torch.from_numpy(world.field)
        with torch.no_grad():
            vectors = model(ids)
        torch.manual_seed(0)
        model.head = trained(nn.Linear(encoder.config.hidden_size, 4), vectors, labels, steps=300, rate=0.05)
        with torch.no_grad():
            assert torch.equal(model(ids).argmax(1), labels)
        words = tokenizer(" ".join(world.jobs), add_special_tokens=False)["input_ids"]
        masks = TokenMask(tokenizer.mask_token_id), Tokens(keep=tuple(tokenizer.all_special_ids))
        # One sentence of each pair, which differ in the pronoun alone.
        return model, ids[::2], masks, torch.isin(ids[::2], torch.tensor(words))

    def test_masks_find_the_occupation(self, text):
        model, ids, (removal, masker), job = text
        before, ids, job = state_of(model), ids[::3], job[::3]
        found = qfa(model, ids, removal=removal, masker=masker, step=0.1, steps=20)
        assert found.maps.shape == ids.shape
        assert (found.maps[ids < 104] == 0).all()  # [PAD], [CLS], [SEP]
        # A text without any word gets one of the answers, and where that is the answer anyway, nothing need be kept.
        nothing = torch.where(masker.free(ids), removal.id, ids)
        with torch.no_grad():
            spoken = model(nothing).argmax(1) != model(ids).argmax(1)
        assert len(ids) / 2 < spoken.sum() < len(ids)
        others = masker.free(ids) & ~job
        assert found.maps[spoken][job[spoken]].mean() > 1.5 * found.maps[spoken][others[spoken]].mean()
        assert found.change.median() < 0.05
        assert equal(state_of(model), before)
        assert not any(m._forward_hooks for m in model.modules())

    def test_a_student(self, text):
        model, ids, (removal, masker), _ = text
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        diet = DiET(removal, masker, step=0.15, steps=8, rounds=1, epochs=2, stop=0.0, rate=1e-3, batch_size=16)
        fitted = diet.fit(model, ids[:16])
        assert fitted.report["agreement"] >= 0.97
        assert fitted.report["change"]["student"] < fitted.report["change"]["model"]
        student = fitted.student(model)
        assert not equal(state_of(student.get_submodule("head")), state_of(model.head))
        assert equal(state_of(student.get_submodule("model")), state_of(model.model))
