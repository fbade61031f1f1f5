"""Models with PEFT's adapters: what is folded into their layers holds in whichever state the adapters are."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from efface import EffaceWarning, InputError, Scrubber, scrub
from tests.models import concept, data, tiny

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:Adapter .* was active which is now deleted:UserWarning"),
]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "gate_proj"], "init_lora_weights": False}


def adapted(name: str = "llama", kind: Any = None, model: Any = None, **options: Any) -> Any:
    torch.manual_seed(1)
    config = (kind or peft.LoraConfig)(**(LORA if kind is None else {}) | options)
    return peft.get_peft_model(tiny(name) if model is None else model, config).eval()


def two() -> Any:
    model = adapted()
    torch.manual_seed(2)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    return model


@contextmanager
def switched(model: Any, state: str) -> Iterator[Any]:
    """The model with its adapters in one of the states that they can have, here or in a copy."""
    if state == "off":
        with model.disable_adapter():
            yield model
        return
    which, _, how = state.partition(" ")
    model.base_model.set_adapter(["default", "second"] if which == "both" else which)
    if how == "unloaded":
        yield copy.deepcopy(model).merge_and_unload()
    elif how:
        model = copy.deepcopy(model)
        model.merge_adapter()
        if how == "unmerged":
            model.unmerge_adapter()
        yield model
    else:
        yield model


def logits(model: Any, name: str = "llama") -> Tensor:
    with torch.no_grad():
        return model(**data(name))[0]


def near(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max() / b.abs().max()) < 1e-5


def fitted(model: Any, name: str = "llama", sites: Any = "norms", **options: Any) -> Scrubber:
    return scrub(model, data(name), concept(name), sites=sites, **options)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def is_as_before(model: Any, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return {*after} == {*before} and all(torch.equal(after[name], x) for name, x in before.items())


WAYS = ("", " merged", " unmerged", " unloaded")


@pytest.mark.parametrize(("at", "affine"), [("default", True), ("both", False)])
def test_what_is_folded_holds_in_every_state_of_the_adapters(at: str, affine: bool) -> None:
    model = two()
    with switched(model, at):
        known = fitted(model, affine=affine)
        folded, before = known.folded(model), weights(model)
    expected = {}
    for state in ("default", "second", "both", "off"):
        with switched(model, state), known.on(model, check=False):
            expected[state] = logits(model)
    with switched(model, at), folded.on(model):
        for state, want in expected.items():
            for way in WAYS if state != "off" else ("",):
                with switched(model, state + way) as subject:
                    assert near(logits(subject), want), state + way
        assert near(logits(copy.deepcopy(model).unload()), expected["off"])
    assert is_as_before(model, before)
    assert not any(x for m in model.modules() for x in getattr(m, "lora_bias", {}).values())


MODELS: dict[str, Any] = {
    "rslora and dropout": lambda: adapted(use_rslora=True, lora_dropout=0.3),
    "a bias of its own": lambda: adapted(model=tiny("llama", attention_bias=True, mlp_bias=True), lora_bias=True),
    "a trained head": lambda: adapted(modules_to_save=["lm_head"]),
    "on the head": lambda: adapted(target_modules=["lm_head", "q_proj"]),
    "merged": lambda: (model := adapted(), model.merge_adapter())[0],
    "switched off": lambda: (model := adapted(), model.base_model.disable_adapter_layers())[0],
}


@pytest.mark.parametrize("which", MODELS)
def test_kinds_of_lora(which: str, tmp_path: Any) -> None:
    model = MODELS[which]()
    known = fitted(model, affine=False)
    with known.on(model):
        expected = logits(model)
    before = weights(model)
    with known.folded(model).on(model):
        assert near(logits(model), expected)
    known.export(tmp_path / "model", model)
    assert near(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()), expected)
    assert is_as_before(model, before)


@pytest.mark.parametrize(
    "sites", ["model.layers.*.mlp.down_proj", "model.layers.*.self_attn.o_proj", "model.layers.*.mlp.down_proj:input"]
)
def test_what_layers_with_lora_take_and_give(sites: str) -> None:
    model = adapted(target_modules=["o_proj", "down_proj"])
    known = fitted(model, sites=sites)
    with known.on(model):
        expected = logits(model)
    with known.folded(model).on(model):
        assert near(logits(model), expected) and near(logits(copy.deepcopy(model).merge_and_unload()), expected)


def test_gpt2s_transposed_layers() -> None:
    model = adapted("gpt2", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    known = fitted(model, "gpt2")
    with known.on(model):
        expected = logits(model, "gpt2")
    with known.folded(model).on(model):
        assert near(logits(model, "gpt2"), expected)
        assert near(logits(copy.deepcopy(model).merge_and_unload(), "gpt2"), expected)


def test_an_adapter_that_transformers_added_is_exported_with_the_model(tmp_path: Any) -> None:
    model = tiny("llama")
    torch.manual_seed(1)
    model.add_adapter(peft.LoraConfig(**LORA))
    known = fitted(model.eval(), affine=False)
    with known.on(model):
        expected = logits(model)
    known.export(tmp_path / "model", model)
    assert near(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()), expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (None, {"use_dora": True}),
        (peft.IA3Config, {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
        (peft.LoHaConfig, {"target_modules": ["q_proj"], "init_weights": False}),
        (peft.LoKrConfig, {"target_modules": ["q_proj"], "init_weights": False}),
    ],
)
@pytest.mark.parametrize("on", [True, False])
def test_adapters_that_are_no_sum_of_linear_layers_are_refused_on_and_off(kind: Any, options: Any, on: bool) -> None:
    model = adapted(kind=kind, **options)
    if not on:
        model.base_model.disable_adapter_layers()
    known, before = fitted(model), weights(model)
    with pytest.raises(InputError, match="cannot be folded|merge it first"):
        known.folded(model)
    assert is_as_before(model, before)


def test_who_saves_adapters_alone_is_told_that_nothing_folded_is_in_them(tmp_path: Any) -> None:
    model = adapted()
    known = fitted(model, affine=False)
    with known.folded(model).on(model), pytest.warns(EffaceWarning, match="saved is the .*without"):
        model.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        model.save_pretrained(tmp_path / "plain")
        known.export(tmp_path / "model", model)
