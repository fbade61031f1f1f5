"""Baselines against hand computations and theorems; the model is left as it was, whatever happens."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface._errors import MissingExtraError
from efface.attribution.baselines import BASELINES, attribute
from tests.pictures import convolutional, hooks, images, linear

DRAWING = ("smoothgrad", "gradient-shap")
COMPLETE = ("integrated-gradients", "deeplift", "gradient-shap")


def weight_of(model: nn.Module, classes: Tensor) -> Tensor:
    layer = model[1]  # type: ignore[index]
    return layer.weight[classes].view(-1, 3, 8, 8).detach()


def score(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).gather(1, target[:, None])[:, 0]


class TestOnALinearModel:
    """Every gradient is the weight, so that each method has a closed form."""

    model, x = linear(), images(5)
    target = model(x).argmax(1)

    def test_gradient(self) -> None:
        weight = weight_of(self.model, self.target)
        torch.testing.assert_close(attribute("gradient", self.model, self.x), weight.abs().sum(1))
        torch.testing.assert_close(attribute("gradient", self.model, self.x, reduce="sum"), weight.sum(1))
        torch.testing.assert_close(attribute("smoothgrad", self.model, self.x, samples=3), weight.abs().sum(1))

    @pytest.mark.parametrize("method", ["input-x-gradient", *COMPLETE])
    def test_weight_times_input(self, method: str) -> None:
        parts = weight_of(self.model, self.target) * self.x
        for reduce, expected in (("sum", parts.sum(1)), ("absolute", parts.abs().sum(1)), ("size", parts.sum(1).abs())):
            found = attribute(method, self.model, self.x, reduce=reduce)  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("method", COMPLETE)
    def test_from_a_baseline(self, method: str) -> None:
        start = images(1, seed=7)[0]
        found = attribute(method, self.model, self.x, baseline=start, reduce="sum")
        expected = (weight_of(self.model, self.target) * (self.x - start)).sum(1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    def test_occlusion(self) -> None:
        """Without overlap, each pixel gets what its window takes from the output; with it, the mean over windows."""
        drop = (weight_of(self.model, self.target) * (self.x - 0.5)).sum(1)
        blocks = nn.functional.avg_pool2d(drop[:, None], 4) * 16
        expected = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0]
        found = attribute("occlusion", self.model, self.x, window=4, stride=4, baseline=0.5)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        windows = nn.functional.avg_pool2d(drop[:, None], 4, 2) * 16
        found = attribute("occlusion", self.model, self.x, window=4, stride=2, baseline=0.5)
        torch.testing.assert_close(found[:, 0, 0], windows[:, 0, 0, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[:, 2, 2], windows[:, 0, :2, :2].mean((1, 2)), atol=1e-5, rtol=1e-4)

    def test_the_target_may_be_one_class_or_one_an_image(self) -> None:
        each = torch.tensor([2, 1, 0, 1, 2])
        torch.testing.assert_close(
            attribute("gradient", self.model, self.x, each), weight_of(self.model, each).abs().sum(1)
        )
        one = attribute("gradient", self.model, self.x, 1)
        torch.testing.assert_close(one, weight_of(self.model, torch.full((5,), 1)).abs().sum(1))


class TestCompleteness:
    @pytest.mark.parametrize("method", ["integrated-gradients", "deeplift"])
    def test_maps_sum_to_the_difference_from_the_baseline(self, method: str) -> None:
        model, x = convolutional(), images(5)
        target = model(x).argmax(1)
        options: dict[str, Any] = {"steps": 400} if method == "integrated-gradients" else {}
        maps = attribute(method, model, x, reduce="sum", **options)
        difference = score(model, x, target) - score(model, torch.zeros_like(x), target)
        torch.testing.assert_close(maps.sum((1, 2)), difference, atol=0.02 * float(difference.abs().max()), rtol=0.02)


class TestGradCam:
    def test_by_hand_at_a_named_layer(self) -> None:
        model, x = convolutional(), images(3)
        target = model(x).argmax(1)
        maps = model[:7](x).detach().requires_grad_()  # type: ignore[index]
        slope = torch.autograd.grad(model[7:](maps).gather(1, target[:, None]).sum(), maps)[0]  # type: ignore[index]
        small = (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
        expected = nn.functional.interpolate(small, size=(8, 8), mode="bilinear")[:, 0]
        torch.testing.assert_close(attribute("gradcam", model, x, layer="6"), expected, atol=1e-5, rtol=1e-4)

    def test_the_last_convolution_is_the_last_that_runs(self) -> None:
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last, self.first = nn.Conv2d(4, 2, 1), nn.Conv2d(3, 4, 3, padding=1)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.first(x).relu()).sigmoid().mean((2, 3))

        model = Backwards().eval()
        default, named = attribute("gradcam", model, images()), attribute("gradcam", model, images(), layer="last")
        assert torch.equal(default, named)

    def test_bad_layers_are_named(self) -> None:
        with pytest.raises(InputError, match="no module 'conv9'"):
            attribute("gradcam", convolutional(), images(), layer="conv9")
        with pytest.raises(InputError, match="runs no nn.Conv2d"):
            attribute("gradcam", linear(), images())
        with pytest.raises(InputError, match="whose output is maps"):
            attribute("gradcam", convolutional(), images(), layer="9")


def options_of(method: str) -> dict[str, Any]:
    return {"smoothgrad": {"samples": 2}, "gradient-shap": {"samples": 2}, "integrated-gradients": {"steps": 4}}.get(
        method, {}
    )


@pytest.mark.parametrize("method", BASELINES)
def test_no_method_puts_many_images_to_the_model_at_once(method: str) -> None:
    """Memory is that of a batch, not of a batch times steps, samples or windows."""
    read: list[int] = []
    model = convolutional()
    model.register_forward_hook(lambda _, inputs, __: read.append(len(inputs[0])))
    attribute(method, model, images(11), batch_size=4, **options_of(method))
    assert max(read) <= (8 if method == "deeplift" else 4)


def numbers_state() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].tolist()


@pytest.mark.parametrize("method", [m for m in BASELINES if m not in DRAWING])
def test_the_model_reads_images_in_its_own_dtype(method: str) -> None:
    expected, found = (
        attribute(method, model, images(3), **options_of(method))
        for model in (convolutional(), convolutional().double())
    )
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [m for m in BASELINES if m not in DRAWING])
def test_batches_do_not_change_what_draws_nothing(method: str) -> None:
    model, x = convolutional(), images(5)
    whole, parts = (attribute(method, model, x, batch_size=b, **options_of(method)) for b in (5, 2))
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", BASELINES)
class TestEveryMethod:
    def test_maps_lie_over_the_images_and_come_again_by_seed(self, method: str) -> None:
        model, x = convolutional(), images(5)
        state, numbers = torch.get_rng_state(), numbers_state()
        maps = [attribute(method, model, x, batch_size=2, seed=s, **options_of(method)) for s in (1, 1, 2)]
        assert maps[0].shape == (5, 8, 8) and not maps[0].requires_grad
        assert torch.equal(maps[0], maps[1])
        assert torch.equal(maps[0], maps[2]) == (method not in DRAWING)
        assert torch.equal(torch.get_rng_state(), state) and numbers_state() == numbers

    def test_the_model_is_left_as_it_was(self, method: str) -> None:
        model, x = convolutional(), images(3)
        before, image = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
        first, frozen = model.get_parameter("0.weight"), model.get_parameter("0.bias")
        first.grad = torch.ones_like(first)
        frozen.requires_grad_(False)
        attribute(method, model, x, **options_of(method))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert torch.equal(x, image) and not x.requires_grad
        assert first.grad is not None and bool((first.grad == 1).all()) and not frozen.requires_grad
        assert sum(p.grad is not None for p in model.parameters()) == 1 and first.requires_grad
        assert hooks(model) == 0 and not any(m.training for m in model.modules())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_any_precision(self, method: str, dtype: torch.dtype) -> None:
        """Nearly the map of the float32 model; in half precision occlusion has few outputs to tell apart."""
        x = images(2)
        found, expected = (
            attribute(method, convolutional().to(d), x.to(d), target=1, **options_of(method))
            for d in (dtype, torch.float32)
        )
        assert found.dtype in (torch.float32, torch.float64)
        alike = torch.cosine_similarity(found.float().flatten(1), expected.flatten(1))
        assert float(alike.min()) > (0.7 if method == "occlusion" else 0.97)

    def test_inference_mode_outside_and_in_the_images(self, method: str) -> None:
        model = convolutional()
        with torch.inference_mode():
            x = images(2)
            inside = attribute(method, model, x, **options_of(method))
        assert torch.equal(attribute(method, model, x, **options_of(method)), inside) and not inside.is_inference()

    def test_nothing_is_left_behind_by_a_failure(self, method: str) -> None:
        class Fails(nn.Module):
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                Fails.calls += 1
                if Fails.calls > 1:  # the first asks for the class predicted
                    raise RuntimeError("as ordered")
                return x

        Fails.calls = 0
        model = nn.Sequential(convolutional(), Fails()).eval()
        with pytest.raises(InputError, match=f"{method} cannot explain this model: RuntimeError: as ordered"):
            attribute(method, model, images(2), **options_of(method))
        assert hooks(model) == 0 and all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.zeros(2, 8, 8)}, "x[None]"),
            ({"x": torch.zeros(2, 5)}, "images (n, channels, h, w)"),
            ({"x": torch.full((2, 3, 8, 8), float("inf"))}, "x has NaN or infinite"),
            ({"target": 3}, "expected 0 to 2"),
            ({"target": torch.tensor([0, 1])}, "class indices (4,)"),
            ({"reduce": "max"}, "'sum', 'absolute' or 'size'"),
            ({"colour": 1}, "has no option colour"),
            ({"batch_size": 0}, "batch_size must be"),
            ({"outputs": "probabilities"}, "outputs='logits'"),
        ],
    )
    def test_bad_input_is_named(self, method: str, change: dict[str, Any], message: str) -> None:
        given: dict[str, Any] = {"model": convolutional(), "x": images(), **options_of(method), **change}
        with pytest.raises(InputError) as caught:
            attribute(method, **given)
        assert message in str(caught.value)

    def test_a_model_in_training_mode_is_refused(self, method: str) -> None:
        with pytest.raises(InputError, match=r"model.eval\(\)"):
            attribute(method, convolutional().train(), images())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated-gradients", {"baseline": torch.zeros(2, 8, 8)}, "expected a number or one image (3, 8, 8)"),
        ("integrated-gradients", {"steps": 0}, "steps must be"),
        ("deeplift", {"baseline": float("nan")}, "baseline is not finite"),
        ("occlusion", {"window": 9}, "the window must fit"),
        ("occlusion", {"window": 2, "stride": 3}, "may not pass over pixels"),
        ("smoothgrad", {"samples": 0}, "samples must be"),
    ],
)
def test_bad_options_are_named(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        attribute(method, convolutional(), images(), **options)
    assert message in str(caught.value)


def test_an_unknown_method_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="integrated-gradients, gradcam"):
        attribute("lime", convolutional(), images())


def test_gradients_that_are_not_finite_are_named() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :2] * 0).sqrt() + 3 * torch.arange(2)

    with pytest.raises(InputError, match="maps that are not finite"):
        attribute("gradient", Root().eval(), images())


def test_without_captum_the_extra_is_named_and_our_own_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"efface\[attribution\]"):
        attribute("gradient", linear(), images())
    assert attribute("simple-fullgrad", convolutional(), images()).shape == (4, 8, 8)
