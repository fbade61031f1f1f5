"""`torch.inference_mode()` around a call, or around what is given to it: neither changes what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import InputError, LeaceEraser, Scrubber
from efface.attribution import BASELINES, Blur, DiET, Grid, Marginal, Removal, attribute, full_gradient, qfa
from efface.attribution.tuning import input_dropout, random_mask_distillation, saliency_guided
from efface.core.fingerprint import fingerprint
from efface.core.weights import Add, Put, WeightDelta
from efface.core.writing import write
from tests.models import concept, data, tiny
from tests.pictures import convolutional, images

LABELS = torch.tensor([0, 1, 2, 0])
Door = Callable[[Any, Tensor], Any]


def explained(method: str) -> Door:
    return lambda model, x: efface.explain(model, x, methods=method, steps=20, train=x).maps[method].values


def searched(make: Callable[[Tensor], Removal]) -> Door:
    return lambda model, x: qfa(model, x, removal=make(x), masker=Grid(2), steps=20, step=0.1).maps


@torch.no_grad()
def said(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def tuned(how: Callable[..., Any], *more: Any) -> Door:
    return lambda model, x: said(how(model, x, *more, passes=40).model, x)


DOORS: dict[str, Door] = {
    **{name: lambda model, x, name=name: attribute(name, model, x) for name in BASELINES},  # type: ignore[misc]
    "explain qfa": explained("qfa"),
    "explain diet": explained("diet"),
    "qfa": searched(Marginal),
    "qfa blur": searched(lambda x: Blur(1.0)),
    "diet": lambda model, x: DiET(Marginal(x), Grid(2), steps=20, step=0.1, rounds=1).fit(model, x).masks,
    "full gradient": lambda model, x: full_gradient(model, x, LABELS).input_term,
    "random masks": lambda model, x: said(random_mask_distillation(model, x, Marginal(x), Grid(2), passes=40).model, x),
    "dropout": tuned(input_dropout, LABELS, Blur(1.0)),
    "saliency": tuned(saliency_guided, LABELS),
}


@pytest.mark.parametrize("door", DOORS)
def test_doors_that_take_gradients_leave_inference_mode(door: str) -> None:
    call, model, x = DOORS[door], convolutional(), images()
    expected = call(model, x).detach()
    with torch.inference_mode():
        made_x, made = x * 1, convolutional()
        inside = call(model, x)
    mark = fingerprint(made)
    for found in (inside, call(model, made_x), call(made, x)):
        torch.testing.assert_close(found.detach(), expected)
    assert fingerprint(made) == mark and all(p.is_inference() for p in made.parameters())
    assert not any(p.is_inference() for p in model.parameters())


class Frozen(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x)


@pytest.mark.parametrize("door", sorted({*DOORS} - {"occlusion", "dropout", "random masks"}))
def test_a_model_through_which_no_gradient_comes_is_refused(door: str) -> None:
    with pytest.raises(InputError, match="no gradient|requires a gradient"):
        DOORS[door](Frozen(convolutional()).eval(), images())


def rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(40) % 2


def test_erasers_that_were_read_or_moved_in_inference_mode_serve_in_training(tmp_path: Any) -> None:
    x, z = rows()
    eraser = LeaceEraser.fit(x + z[:, None], z)
    eraser.save(tmp_path / "eraser")
    with torch.inference_mode():
        found = [efface.load(tmp_path / "eraser"), eraser.to(torch.float64).to(torch.float32), eraser]
        erased = [each(x) for each in found]
    for each, expected in zip(found, erased, strict=True):
        leaf = x.clone().requires_grad_()
        each(leaf).square().sum().backward()
        torch.testing.assert_close(each(x), expected)


class Moving:
    """Is moved by a copy, as to another device."""

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def to(self, _device: torch.device) -> Moving:
        return Moving(self.scale.clone())

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_an_erasure_that_is_on_in_inference_mode_serves_in_training_then() -> None:
    model, x = nn.Linear(4, 4), rows()[0]
    with Scrubber.at({"": Moving(torch.ones(4))}).on(model):
        with torch.inference_mode():
            model(x)
        model(x).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize("kind", [Add, Put])
def test_weights_that_are_written_in_inference_mode_serve_in_training(kind: Any) -> None:
    first, second, x = nn.Linear(4, 4), nn.Linear(4, 4), rows()[0]
    model = nn.Sequential(first, second)
    with torch.inference_mode():
        value = torch.ones(4, 4)
        written = write(model, WeightDelta({"1.weight": (kind(value),)}))
    model(x).square().sum().backward()
    with torch.no_grad():
        second.weight.mul_(2.0)
    assert torch.equal(value, torch.ones(4, 4))
    written()


def test_a_scrub_in_inference_mode_is_the_same() -> None:
    model = tiny("llama")
    known = efface.scrub(model, data("llama"), concept("llama"), sites="norms")
    with torch.inference_mode():
        inside = efface.scrub(model, data("llama"), concept("llama"), sites="norms")
        folded = inside.folded(model)
        given = {k: v * 1 for k, v in data("llama").items()}
    assert inside == known == efface.scrub(model, given, concept("llama"), sites="norms")
    model.train()
    with folded.on(model):
        model(**data("llama"), labels=data("llama")["input_ids"]).loss.backward()
    with inside.on(model):
        model(**data("llama"), labels=data("llama")["input_ids"]).loss.backward()
