"""Edits of what modules take and give; and that no hook is ever left behind, whatever happens."""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from efface import InputError, Scrubber, Site, methods, scrub
from efface.core.edits import edit_sites
from efface.core.hooks import edit_inputs, edit_value, edits_on
from efface.core.installer import handles_on
from efface.scrubbing.forward import Stop, at_rest, edited
from tests.models import concept, data, hooks, state, tiny

Pair = namedtuple("Pair", "hidden cache")
ONE, TWO = torch.ones(2), torch.full((2,), 2.0)


def triple(x: Tensor) -> Tensor:
    return x * 3


# ------------------------------------------------------------------------------------------- what a module gives


@pytest.mark.parametrize(
    ("value", "index", "edited"),
    [
        (ONE, None, 0),
        (ONE, 0, 0),
        ((ONE, TWO), None, 0),
        ((ONE, TWO), 1, 1),
        ([ONE, TWO], 1, 1),
        (Pair(ONE, TWO), 1, 1),
        ({"a": ONE, "b": TWO}, None, 0),
        ({"a": ONE, "b": TWO}, "b", 1),
        ({"none": None, "a": ONE, "b": TWO}, 1, 1),
        (BaseModelOutput(last_hidden_state=ONE, attentions=(TWO,)), None, 0),  # type: ignore[arg-type]
        (BaseModelOutput(last_hidden_state=ONE, attentions=(TWO,)), "attentions", 1),  # type: ignore[arg-type]
        (((ONE, TWO), "cache"), None, 0),  # the first of the first
    ],
)
def test_the_hidden_states_are_edited_and_nothing_else(value, index, edited):
    def tensors(x: Any) -> list[Tensor]:
        items = [x] if isinstance(x, Tensor) else x.values() if isinstance(x, dict) else x
        return [y for item in items if item is not None and not isinstance(item, str) for y in _flat(item)]

    before, changed = tensors(value), edit_value(value, triple, index)
    assert type(changed) is type(value)
    for i, (old, now, kept) in enumerate(zip(before, tensors(changed), tensors(value), strict=True)):
        assert kept is old and torch.equal(now, old * (3 if i == edited else 1))
    if isinstance(value, BaseModelOutput):  # attributes and items of a ModelOutput are two things
        assert torch.equal(changed.last_hidden_state, changed["last_hidden_state"])  # type: ignore[arg-type]


def _flat(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [y for item in x for y in _flat(item)]


def test_an_edit_that_returns_none_only_looks():
    assert edit_value(ONE, lambda _: None) is ONE


@pytest.mark.parametrize(
    ("value", "index", "text"),
    [
        (ONE, 1, "single tensor"),
        (ONE, "logits", "single tensor"),
        ((ONE,), 1, "gives 1 values"),
        ((ONE,), "logits", "gives 1 values"),
        ({"a": ONE, "b": None}, "b", "no field 'b': it gives 'a'"),
        ({"a": ONE}, 1, "no field 1"),
        (None, None, "gives a NoneType"),
        (("cache", ONE), None, "gives a str"),
    ],
)
def test_where_no_hidden_states_are(value, index, text):
    with pytest.raises(InputError, match=f"h.0.*{text}"):
        edit_value(value, triple, index, Site("h.0"))


# ------------------------------------------------------------------------------------------ what a module takes


@pytest.mark.parametrize(
    ("args", "kwargs", "index", "expected"),
    [
        ((ONE, TWO), {}, None, ((3, 2), {})),
        ((ONE, TWO), {}, 1, ((1, 6), {})),
        ((), {"mask": TWO, "hidden_states": ONE}, None, ((), {"mask": 2, "hidden_states": 3})),
        ((), {"scale": 5, "x": ONE, "y": TWO}, None, ((), {"scale": 5, "x": 3, "y": 2})),
        ((ONE,), {"y": TWO}, "y", ((1,), {"y": 6})),
        (((ONE, TWO),), {}, None, (((3, 2),), {})),
    ],
)
def test_inputs_by_position_and_by_keyword(args, kwargs, index, expected):
    def first(x: Any) -> Any:
        return float(x[0]) if isinstance(x, Tensor) else tuple(map(first, x)) if isinstance(x, tuple) else x

    new_args, new_kwargs = edit_inputs(args, kwargs, triple, index)
    assert (first(new_args), {k: first(v) for k, v in new_kwargs.items()}) == expected
    assert torch.equal(ONE, torch.ones(2)) and torch.equal(TWO, torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("args", "kwargs", "index", "text"),
    [
        ((), {"scale": 2}, None, r"no tensor  by keyword: it gets \['scale'\]"),
        ((ONE,), {}, "hidden_states", "no tensor hidden_states by keyword"),
        ((ONE,), {}, 1, "none at 1"),
        ((None,), {}, None, "NoneType"),
    ],
)
def test_inputs_that_are_not_there(args, kwargs, index, text):
    with pytest.raises(InputError, match=text):
        edit_inputs(args, kwargs, triple, index, Site("h.0", "input"))


def test_edits_of_one_site_are_made_in_the_order_of_installation():
    layer = nn.Identity()
    with edited(layer, {Site(""): triple}), edited(layer, {Site(""): lambda x: x + 1}):
        assert torch.equal(layer(ONE), ONE * 3 + 1)
    assert torch.equal(layer(ONE), ONE)


def test_a_site_that_is_missing_leaves_no_hook_on_the_others():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with pytest.raises(AttributeError):
        edit_sites(model, {Site("0"): triple, Site("1", "input"): triple, Site("2"): triple})
    assert hooks(model) == 0


def test_at_rest_gives_each_module_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(Stop), at_rest(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
        raise Stop
    assert [m.training for m in model.modules()] == [True, True, False] and torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------ nothing is left behind

USABLE = [m.name for m in methods("rows") if not m.labels_at_apply]
SITES = ["norms", "layers.*.mlp.down_proj:input", "layers.*.self_attn:input", "layers.1"]
"""Tensors, keywords and tuples, inputs and outputs."""


class Broken(Exception):
    """What goes wrong."""


@cache
def model() -> Any:
    return tiny("llama")


@cache
def fitted(method: str) -> Scrubber:
    known = scrub(model(), data("llama"), concept("llama"), sites=SITES, method=method.replace("random", "leace"))
    return known.random_control() if method == "random" else known


def logits(ids: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model()(input_ids=data("llama")["input_ids"][:2] if ids is None else ids).logits


def normally(scrubber: Scrubber, other: Scrubber) -> None:
    with scrubber.on(model()):
        scrubbed(len(scrubber.sites))


def inside(scrubber: Scrubber, other: Scrubber) -> None:
    with pytest.raises(Broken), scrubber.on(model()):
        scrubbed(len(scrubber.sites))
        raise Broken


def in_the_model(scrubber: Scrubber, other: Scrubber) -> None:
    with pytest.raises(IndexError), scrubber.on(model()):
        logits(torch.full((1, 3), 10**6))


def in_an_eraser(scrubber: Scrubber, other: Scrubber) -> None:
    def fail(_: Tensor) -> Tensor:
        raise Broken

    erasers = {**scrubber.erasers, scrubber.sites[3]: fail}
    with pytest.raises(Broken), Scrubber(erasers).on(model()):
        logits()


def twice(scrubber: Scrubber, other: Scrubber) -> None:
    with scrubber.on(model()):
        once = hooks(model())
        with pytest.raises(InputError, match="on this LlamaForCausalLM already"):
            scrubber.on(model())
        assert hooks(model()) == once
        scrubbed(len(scrubber.sites))


def two(scrubber: Scrubber, other: Scrubber) -> None:
    with scrubber.on(model()):
        with other.on(model(), check=False):
            scrubbed(len(scrubber.sites) + len(other.sites))
        scrubbed(len(scrubber.sites))


def crosswise(scrubber: Scrubber, other: Scrubber) -> None:
    first, second = scrubber.on(model()), other.on(model(), check=False)
    first.undo()
    scrubbed(len(other.sites))
    second.undo()
    second.undo()


def interrupted(scrubber: Scrubber, other: Scrubber) -> None:
    with pytest.raises(KeyboardInterrupt), scrubber.on(model()), other.on(model(), check=False):
        scrubbed(len(scrubber.sites) + len(other.sites))
        raise KeyboardInterrupt


def interrupted_in_the_model(scrubber: Scrubber, other: Scrubber) -> None:
    def interrupt(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    erasers = {**scrubber.erasers, scrubber.sites[-1]: interrupt}
    with pytest.raises(KeyboardInterrupt), other.on(model()), Scrubber(erasers).on(model()):
        logits()


def scrubbed(edits: int) -> None:
    """What is on now edits something, at so many places."""
    assert edits_on(model()) == edits and not torch.allclose(logits(), plain(), atol=1e-3)


@cache
def plain() -> Tensor:
    assert hooks(model()) == 0
    return logits()


ENDINGS = [normally, inside, in_the_model, in_an_eraser, twice, two, crosswise, interrupted, interrupted_in_the_model]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:.*both concepts come back in part:efface.EffaceWarning")  # as `two` shows
@pytest.mark.parametrize("method", [*USABLE, "random"])
def test_afterwards_the_model_is_as_it_was(method, ending):
    scrubber, other = fitted(method), fitted("orth").only("model.norm", "model.layers.0.mlp.down_proj:input")
    before, output = state(model()), plain()
    ending(scrubber, other)
    assert state(model()) == before and hooks(model()) == 0
    assert torch.equal(logits(), output)
    assert not handles_on(model())


def test_a_model_in_training_stays_in_training_with_its_gradients():
    trained = tiny("llama")
    known = scrub(trained, data("llama"), concept("llama"), sites="norms")
    trained.train()
    trained.model.layers[0].eval()
    before = state(trained)
    scrub(trained, data("llama"), concept("llama"), sites="norms")
    assert state(trained) == before
    with known.on(trained):
        trained(input_ids=data("llama")["input_ids"]).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.parameters())
    assert state(trained) == before
