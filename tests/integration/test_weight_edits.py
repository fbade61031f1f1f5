"""Edits of weights: what they change, and that what was there comes back bit for bit."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from torch import nn

from efface import InputError
from efface.core.edits import OnWeights
from efface.core.erasure import Erasure
from efface.core.weights import Add, LowRank, Multiply, Put, WeightDelta
from tests.edits import Holds, Shift, X, changing, layers, said, same, state


def weights(**changes: Any) -> Erasure:
    return weights_of(changing({name.replace("_", "."): change for name, change in changes.items()}))


def test_every_change_of_weights_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    a, up, down, left, right, put = (
        torch.randn(*s, generator=generator) for s in ((4, 4), (4, 2), (2, 4), (4, 4), (4, 4), (4, 4))
    )
    w = layers()[0].weight.detach()
    for change, expected in (
        (Add(a), w.double() + a.double()),
        (LowRank(up, down), w.double() + up.double() @ down.double()),
        (Multiply(left=left), left.double() @ w.double()),
        (Multiply(right=right), w.double() @ right.double()),
        (Multiply(left, right), left.double() @ w.double() @ right.double()),
        (Put(put), put),
    ):
        model = layers()
        old = model[0].weight
        with weights(**{"0_weight": change}).on(model):
            assert torch.equal(model[0].weight, expected.float()) and model[0].weight.requires_grad
        assert model[0].weight is old


@pytest.mark.parametrize("convert", ["bfloat16", "half", "double"])
def test_undo_after_a_conversion_and_back(convert: str) -> None:
    model = layers()
    old = [p.detach().clone() for p in model.parameters()]
    run = Shift(0.5, "weights").on(model)
    getattr(model, convert)()
    run.undo()
    for p, before in zip(model.parameters(), old, strict=True):
        assert torch.equal(p, before.to(p.dtype))
    model = layers()
    run = Shift(0.5, "weights").on(model)
    getattr(model, convert)()
    model.float()
    run.undo()
    for name, p in model.named_parameters():
        edited = name in ("0.weight", "1.bias")
        expected = dict(layers().named_parameters())[name]
        assert torch.equal(p, expected if edited else getattr(expected, convert)().float())


def test_weights_that_were_trained_since_are_not_lost_unasked() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().mean().backward()
    optimizer.step()
    trained = model[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"changed since .*undo\(force=True\)"):
        run.undo()
    assert run.is_on and torch.equal(model[0].weight, trained)
    run.undo(force=True)
    assert model[0].weight is old and not run.is_on


def test_an_undo_that_is_refused_leaves_all_of_it_on() -> None:
    model = layers()
    before = state(model)
    run = (Shift(0.5, "states") & Shift(0.5, "weights") & Shift(0.25, "states")).on(model)
    on = said(model)
    over = Shift(0.25, "weights").on(model)
    with pytest.raises(InputError, match="undo that one first"):
        run.undo()
    over.undo()
    assert run.is_on and torch.equal(said(model), on)
    run.undo()
    assert same(state(model), before)


def test_what_comes_off_together_need_not_come_off_in_order() -> None:
    model = layers()
    before = state(model)
    run = (Shift(0.5, "weights") & Shift(0.25, "weights")).on(model)
    run.undo()
    assert same(state(model), before)


def test_a_layer_that_was_parametrised_since_is_not_written_over() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    nn.utils.parametrizations.weight_norm(model[0])
    for force in (False, True):
        with pytest.raises(InputError, match="no parameter any more"):
            run.undo(force=force)
    assert run.is_on
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    run.undo(force=True)
    assert model[0].weight is old


def test_a_weight_that_was_deleted_comes_back_by_force() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    del model[0].weight
    with pytest.raises(InputError, match="no parameter any more"):
        run.undo()
    run.undo(force=True)
    assert model[0].weight is old


@pytest.mark.parametrize("trains", [True, False])
def test_a_model_that_was_frozen_or_thawed_since_stays_so(trains: bool) -> None:
    model = layers().requires_grad_(not trains)
    with Shift(0.5, "weights").on(model):
        model.requires_grad_(trains)
    assert all(p.requires_grad is trains for p in model.parameters())


def test_switches_of_the_config_come_and_go_with_the_weights() -> None:
    model = layers()
    delta = WeightDelta({"0.weight": (Add(torch.ones(4, 4)),)}, config={"tied": False, "new": 1})
    before = state(model)
    with pytest.raises(InputError, match=r"model\.config, which this model does not have"):
        weights_of(delta).on(model)
    assert same(state(model), before)
    model.config = argparse.Namespace(tied=True)
    with weights_of(delta).on(model):
        assert vars(model.config) == {"tied": False, "new": 1}
    assert vars(model.config) == {"tied": True}


def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(InputError, match="scripted"):
        Shift(0.5, "rows").on(torch.jit.script(nn.Linear(4, 4)))


def test_another_base_is_refused() -> None:
    model, other = layers(), layers()
    with torch.no_grad():
        other[0].weight.mul_(2)
    delta = WeightDelta.between(model, other)
    assert list(delta.changes) == ["0.weight"]
    tuned = Holds((OnWeights(delta),))

    with tuned.on(model):
        assert torch.equal(model[0].weight, other[0].weight)
    before = state(other)
    with pytest.raises(InputError, match="with other weights than this one has"):
        tuned.on(other)
    with pytest.raises(InputError, match="no '0'"):
        tuned.on(nn.Linear(2, 2), check=False)
    assert same(state(other), before)
    tuned.on(other, check=False).undo()
    assert same(state(other), before)


def test_what_cannot_be_edited_is_refused_untouched() -> None:
    with pytest.raises(InputError, match="not in memory"):
        weights(**{"0_weight": Add(torch.ones(4, 4))}).on(layers().to("meta"))
    with pytest.raises(InputError, match="not finite"):
        weights(**{"0_weight": Add(torch.full((4, 4), torch.inf))}).on(layers())
    with pytest.raises(InputError, match="does not fit"):
        weights(**{"0_weight": LowRank(torch.ones(3, 1), torch.ones(1, 4))}).on(layers())
    with pytest.raises(InputError, match="does not fit"):
        weights(**{"0_bias": Multiply(left=torch.eye(4))}).on(layers())
    with pytest.raises(InputError, match="is real and its edit is complex"):
        weights(**{"0_weight": Add(torch.full((4, 4), 1j))}).on(layers())
    quantised = layers()
    quantised[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="quantised"):
        weights(**{"0_weight": Add(torch.ones(4, 4))}).on(quantised)


def test_scaling_and_joining_deltas() -> None:
    add, low = Add(torch.ones(4, 4)), LowRank(torch.ones(4, 1), torch.ones(1, 4))
    delta = changing({"0.weight": add, "1.weight": low})
    model = layers()
    w = [m.weight.detach().double() for m in model]
    with weights_of(delta.scaled(0.5)).on(model):
        assert torch.equal(model[0].weight, (w[0] + 0.5).float()) and torch.equal(model[1].weight, (w[1] + 0.5).float())
    twice = delta.then(changing({"0.weight": Multiply(left=2 * torch.eye(4))}))
    with weights_of(twice).on(model):
        assert torch.equal(model[0].weight, (2 * (w[0] + 1)).float())
    with pytest.raises(InputError, match="no multiple"):
        twice.scaled(0.5)
    assert delta.nbytes == 4 * (16 + 8)


def weights_of(delta: WeightDelta) -> Erasure:
    return Holds((OnWeights(delta),))


def test_models_with_dropout_and_gradients() -> None:
    """A trained subject keeps its gradients, and gradients flow through edits."""
    model = layers()
    with Shift(0.5, "states").on(model):
        model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
