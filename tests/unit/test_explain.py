"""`efface.explain` on models whose answer is known to hang on one corner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import InputError
from efface.attribution import Blur, ConstantColour, DiET, Grid, control_maps, keep_curve
from efface.explanation import METHODS, PixelModel
from efface.explanation.picturing import to_heat, to_pixels
from tests.pictures import convolutional, images, seeded

CLASSES = ("dark corner, night", "bright corner")


class Corner(nn.Module):
    """Says how bright the top left quarter is, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, x: Tensor) -> Tensor:
        bright = self.scale * (x[:, :, :4, :4].mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], 1)


def corners(n: int = 12) -> Tensor:
    x = 0.3 + 0.4 * images(n)
    x[::2, :, :4, :4], x[1::2, :, :4, :4] = 0.95, 0.05
    return x


def explained(methods: Any = "qfa", **more: Any) -> efface.Explanation:
    options = {"masker": Grid(2), "removal": ConstantColour((0.5,) * 3, (0.1,) * 3)}
    return efface.explain(Corner().eval(), corners(), methods=methods, **options | more)


def test_maps_find_the_corner_and_beat_the_controls() -> None:
    found = explained(["qfa", "gradient"])
    for name in ("qfa", "gradient"):
        values = found.maps[name].values
        assert values.shape == (12, 8, 8)
        inside = values[:, :4, :4].mean()
        assert inside > 5 * (values.sum() - 16 * 12 * inside) / (48 * 12)
    assert found.probabilities.argmax(1).tolist() == [1, 0] * 6
    assert found.audit.find("map", "qfa", "mask keeps").value < 0.5
    assert float(found.maps["qfa"].told.min()) > 0.7


def test_numbers_are_those_of_the_curves() -> None:
    found, x = explained("gradient"), corners()
    removal = ConstantColour((0.5,) * 3, (0.1,) * 3)
    for family, name, maps in (
        ("map", "gradient", found.maps["gradient"].values),
        ("control", "edge", control_maps("edge", x)),
    ):
        expected = keep_curve(Corner().eval(), x, maps, removal, draws=4).at(0.05).mean()
        assert found.audit.find(family, name, "5% kept").value == pytest.approx(float(expected))
    assert {f.name for f in found.audit.parts[1].findings if f.family == "control"} == {
        "random",
        "brightness",
        "centre",
        "edge",
    }


def test_diet_is_measured_on_its_copy() -> None:
    model = Corner().eval()
    before = model.scale.item()
    options = {"masker": Grid(2), "removal": ConstantColour((0.5,) * 3, (0.1,) * 3)}
    found = efface.explain(model, corners(), methods=["diet"], train=corners(20), **options)
    assert found.fitted is not None and model.scale.item() == before and model.scale.grad is None
    assert found.audit.find("map on the tuned copy", "diet", "5% kept").n == 12
    assert found.audit.find("tuned copy", "says what the model says").value == 1.0
    again = efface.explain(model, corners(), methods="diet", fitted=found.fitted)
    assert torch.equal(again.maps["diet"].values, found.maps["diet"].values)
    assert again.audit.parts[1].settings["removal"] == found.audit.parts[1].settings["removal"]


def test_a_copy_that_was_not_tuned_is_told() -> None:
    x, model = images(16), convolutional()
    settings = DiET(ConstantColour.of(x), Grid(2), rate=1.0, epochs=1, least_agreement=1.0)
    with pytest.warns(UserWarning, match="taken back"):
        fitted = settings.fit(model, x)
    found = efface.explain(model, x, methods="diet", fitted=fitted)
    assert found.audit.parts[2].conclusions[0].startswith("NOT tuned")


def test_pictures_tell_names_classes_and_labels() -> None:
    labels = torch.tensor([1, 0] * 5 + [0, 0])
    found = explained(names=[f"img{i}.png" for i in range(12)], classes=CLASSES, labels=labels, show=2)
    mean, *rows = found.audit.parts[0].figures
    assert [row.title for row in rows] == ["img0.png", "img1.png"] and "12 images" in mean.title
    assert (
        rows[1].pictures[0].text[0].startswith("says dark corner, ")
        and rows[1].pictures[0].text[1] == "true: dark corner"
    )
    assert rows[0].pictures[1].text[0].startswith("keeps ")
    assert "91.7%" in found.audit.text[-1]


def test_labels_and_the_order_of_methods_change_no_map() -> None:
    plain = explained(["qfa", "gradient"])
    other = explained(["gradient", "qfa"], labels=torch.zeros(12, dtype=torch.long), batch_size=5)
    torch.testing.assert_close(plain.maps["qfa"].values, other.maps["qfa"].values)
    assert explained(seed=1).maps["qfa"].values.ne(plain.maps["qfa"].values).any()


def test_one_image_is_enough() -> None:
    found = efface.explain(Corner().eval(), corners(1), removal=Blur(2.0))
    assert len(found.audit.parts[0].figures) == 1 and "1 image is few" in found.audit.conclusions[-1]


class Reused(nn.Module):
    """Two convolutions with one activation module between and after them; `frozen` cuts the images' gradient off."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.frozen, self.act = frozen, nn.ReLU()
        with seeded(0):
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            h = self.act(self.first(x))
        return 5 * self.head(self.act(self.second(h)).mean((2, 3))) - 1


def test_a_method_that_fails_does_not_end_the_others() -> None:
    found = efface.explain(Reused().eval(), corners(), methods=["gradient", "deeplift"], masker=Grid(2))
    assert list(found.maps) == ["gradient"] and list(found.failed) == ["deeplift"]
    missing = found.audit.find("map", "deeplift")
    assert missing.verdict == "not run" and "an activation module of its own" in missing.why
    assert found.audit.conclusions[0].startswith("NOT scored: deeplift. deeplift cannot explain this model")
    with pytest.raises(InputError, match="an activation module of its own"):
        efface.explain(Reused().eval(), corners(), methods="deeplift", masker=Grid(2))


def test_methods_without_gradients_explain_what_has_none() -> None:
    found = efface.explain(Reused(frozen=True).eval(), corners(), methods=METHODS, train=corners(), masker=Grid(2))
    assert set(found.maps) == {"gradcam", "occlusion"}
    assert len(found.failed) == 9 and all("no_grad" in why for why in found.failed.values())


def test_a_tuning_that_fails_does_not_end_the_others() -> None:
    x = corners()
    found = efface.explain(Corner().half().eval(), x, methods=["diet", "gradient"], train=x, masker=Grid(2))
    assert (
        "float16 models in float32" in found.failed["diet"]
        and found.fitted is None
        and list(found.maps) == ["gradient"]
    )


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = Corner().eval()
    found = efface.explain(model, corners(), methods=["occlusion", "gradient"], masker=Grid(2))
    assert list(found.maps) == ["occlusion", "gradient"] and not found.failed and model.scale.is_inference()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for an old name
def test_an_adapter_is_explained_like_the_model_it_makes() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["first", "second", "head"], init_lora_weights=False)
    with seeded(0):
        model, methods = peft.get_peft_model(Reused(), config).eval(), [name for name in METHODS if name != "deeplift"]
    options = {"methods": methods, "train": corners(), "masker": Grid(2)}
    found = efface.explain(model, corners(), **options)
    merged = efface.explain(model.merge_and_unload().eval(), corners(), **options)
    assert (
        not found.failed and found.fitted is not None and any("lora_A" in name for name in found.fitted.delta.changes)
    )
    for name in set(methods) - {"diet"}:  # which tunes the adapter alone
        torch.testing.assert_close(found.maps[name].values, merged.maps[name].values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["qfa", "gradient", "gradcam", "occlusion", "simple-fullgrad"])
def test_weights_that_accelerate_keeps_elsewhere(method: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    whole, away = convolutional(), accelerate.cpu_offload(convolutional(), execution_device="cpu")
    known, found = (efface.explain(model, images(), methods=method).maps[method].values for model in (whole, away))
    assert torch.equal(known, found)
    with pytest.raises(InputError, match="not in memory .*without offloading"):
        DiET(ConstantColour((0.5,) * 3, (0.1,) * 3), Grid(2)).fit(away, images())


class TwoInputs(Corner):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + age


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": TwoInputs().eval()}, "fails on x alone.*missing 1 required.*wrap one that takes more"),
        ({"methods": "gradients"}, "no method gradients: write some of qfa, diet, gradient"),
        ({"methods": []}, "no method given"),
        ({"methods": "diet"}, "give train="),
        ({"names": ["a"]}, "1 names for 12 images"),
        ({"classes": ["a", "b", "c"]}, "3 names of classes, and the model has 2"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "expected a tensor of class indices"),
        ({"masker": Grid(cells=(9, 9))}, "larger than the image"),
        ({"removal": None, "images": 255 * corners()}, "x / 255"),
        ({"fractions": (0.1, 0.2)}, "none of the fractions"),
        ({"model": Corner()}, "model.eval"),
        ({"show": 0}, "show must be"),
    ],
)
def test_what_cannot_be_explained(given: dict[str, Any], says: str) -> None:
    model, x = given.pop("model", Corner().eval()), given.pop("images", corners())
    with pytest.raises(InputError, match=says):
        efface.explain(model, x, **{"masker": Grid(2), **given})


def test_a_pixel_model_is_the_model_after_normalisation() -> None:
    inner = convolutional().train()
    model = PixelModel(inner, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    x = images(3)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    assert not inner.training and torch.allclose(model(x), inner((x - mean) / std))
    assert set(model.state_dict()) == {f"model.{k}" for k in inner.state_dict()}
    with pytest.raises(InputError, match="one of each"):
        PixelModel(inner, (0.5,), (0.0,))


def test_pixels_and_heat_are_scaled_down_together() -> None:
    assert to_pixels(torch.rand(3, 700, 500)).shape == (320, 229, 3)
    assert to_heat(torch.rand(700, 500)).shape == (320, 229)
    assert to_pixels(torch.full((1, 4, 4), 0.5)).tolist()[0][0] == [128, 128, 128]


def test_heat_of_what_is_no_mask_has_its_own_scale() -> None:
    found = explained("gradient")
    heat = found.maps["gradient"].heat
    assert float(heat.max()) == 1.0 and float(heat.min()) >= 0 and heat.shape == (12, 8, 8)


def test_a_model_of_pixels_compiles_whole() -> None:
    model = PixelModel(torch.nn.Flatten(), mean=(0.5,), std=(0.25,))
    x = torch.rand(2, 1, 3, 3)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
