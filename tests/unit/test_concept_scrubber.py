"""`ConceptScrubber` on tiny models of three families: what it edits, refuses and leaves behind."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import efface.scrubbing
from efface._errors import InputError
from efface.core.hooks import edits_on
from efface.scrubbing import ConceptScrubber
from efface.scrubbing.concept_scrubber import mangle_module_path

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script")
    import concept_erasure

D = 16
SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": D, "num_attention_heads": 2, "num_hidden_layers": 2}
SIZES |= {"intermediate_size": 32}


@cache
def _model(family: str) -> Any:
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    if family == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).eval()
    return BertForSequenceClassification(BertConfig(**SIZES)).eval()


# One key of the first layer for each family, and how many normalisation layers it has.
FIRST = {
    "llama": "layers-0-input_layernorm",
    "neox": "layers-0-input_layernorm",
    "bert": "encoder-layer-0-attention-output-LayerNorm",
}
COUNTS = {"llama": 5, "neox": 5, "bert": 5}
FAMILIES = pytest.mark.parametrize("family", FIRST)
PRE = pytest.mark.parametrize("pre_hook", [False, True], ids=["post", "pre"])


def _tokens() -> Tensor:
    return torch.arange(12).reshape(2, 6)


def _run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(_tokens()).logits


def _norm_keys(model: Any) -> list[str]:
    names = [n for n, m in model.base_model.named_modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]
    return [mangle_module_path(n) for n in names]


def _hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _scrubber(keys: list[str], eraser: Callable[[Tensor], Tensor], pre_hook: bool = False) -> ConceptScrubber:
    scrubber = ConceptScrubber(pre_hook)
    scrubber.erasers = dict.fromkeys(keys, eraser)
    return scrubber


# ------------------------------------------------------------------------------------- what is edited


@FAMILIES
@PRE
def test_every_layer_is_edited_and_restored(family: str, pre_hook: bool) -> None:
    model = _model(family)
    before, keys = _run(model), _norm_keys(model)
    assert len(keys) == COUNTS[family] and FIRST[family] in keys
    with _scrubber(keys, lambda x: x + 0.5 * x.roll(1, -1), pre_hook).scrub(model):
        assert _hook_count(model) == len(keys)
        assert not torch.allclose(_run(model), before, atol=1e-3)
    assert _hook_count(model) == 0
    torch.testing.assert_close(_run(model), before, rtol=0, atol=0)


@FAMILIES
@PRE
def test_same_outputs_as_concept_erasure(family: str, pre_hook: bool) -> None:
    torch.manual_seed(1)
    model, x = _model(family), torch.randn(100, D)
    eraser = concept_erasure.LeaceEraser.fit(x, (x[:, 0] > 0).long())
    theirs, ours = concept_erasure.ConceptScrubber(pre_hook), _scrubber(_norm_keys(model), eraser, pre_hook)
    theirs.erasers = dict.fromkeys(_norm_keys(model), eraser)
    with theirs.scrub(model):
        expected = _run(model)
    with ours.scrub(model):
        torch.testing.assert_close(_run(model), expected, rtol=0, atol=0)


@FAMILIES
@PRE
def test_hook_fn_sees_key_and_states_and_none_leaves_them(family: str, pre_hook: bool) -> None:
    model, seen = _model(family), {}
    scrubber = _scrubber([FIRST[family]], torch.zeros_like, pre_hook)
    before = _run(model)
    with scrubber.apply_hook(model, lambda key, x: seen.update({key: x.shape})) as given:
        torch.testing.assert_close(_run(model), before, rtol=0, atol=0)
    assert given is scrubber
    assert seen == {FIRST[family]: (2, 6, D)}


def test_the_erased_states_keep_their_dtype() -> None:
    model = nn.Sequential(nn.LayerNorm(D)).to(torch.bfloat16)
    with _scrubber(["0"], lambda x: x.double()).scrub(model):
        assert model(torch.ones(1, D, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_an_eraser_may_be_replaced_inside_the_block() -> None:
    model = nn.Sequential(nn.LayerNorm(D))
    scrubber = _scrubber(["0"], torch.zeros_like)
    with scrubber.scrub(model):
        assert model(torch.randn(3, D)).abs().sum() == 0
        scrubber.erasers["0"] = torch.ones_like
        assert model(torch.randn(3, D)).mean() == 1


def test_gradients_flow_through() -> None:
    model, x = nn.Sequential(nn.LayerNorm(D)), torch.randn(3, D, requires_grad=True)
    with _scrubber(["0"], lambda h: 2 * h).scrub(model):
        (model(x) ** 2).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


Pair = namedtuple("Pair", "states extra")


class OddRMSNorm(nn.Module):
    """A layer that takes its states by keyword and returns them first in a tuple."""

    def __init__(self, wrap: Callable[[Tensor, str], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, *, flag: bool = True, hidden_states: Tensor) -> Any:
        return self.wrap(hidden_states, "extra")


class Outer(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, str], Any]) -> None:
        super().__init__()
        self.norm = OddRMSNorm(wrap)

    def forward(self, x: Tensor) -> Any:
        return self.norm(flag=False, hidden_states=x)


@PRE
@pytest.mark.parametrize("wrap", [lambda a, b: (a, b), Pair], ids=["tuple", "namedtuple"])
def test_keyword_states_and_tuples(pre_hook: bool, wrap: Callable[[Tensor, str], Any]) -> None:
    model, x = Outer(wrap), torch.ones(2, 3)
    with _scrubber(["norm"], torch.zeros_like, pre_hook).scrub(model):
        output = model(x)
    assert type(output) is type(wrap(x, "")) and output[1] == "extra"
    assert output[0].sum() == 0 and x.sum() == 6


def test_a_call_without_tensors_is_left_alone() -> None:
    class NoneLayerNorm(nn.Module):
        def forward(self, x: None = None) -> str:
            return "nothing"

    model = nn.ModuleDict({"norm": NoneLayerNorm()})
    with _scrubber(["norm"], torch.zeros_like, pre_hook=True).scrub(model):
        assert model["norm"](x=None) == "nothing"


# -------------------------------------------------------------------------------- nothing left behind


@FAMILIES
@PRE
@pytest.mark.parametrize("where", ["block", "eraser"])
def test_no_hook_survives_an_exception(family: str, pre_hook: bool, where: str) -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = _model(family)
    scrubber = _scrubber(_norm_keys(model), fail if where == "eraser" else torch.clone, pre_hook)
    with pytest.raises(ZeroDivisionError), scrubber.scrub(model):
        _run(model)
        raise ZeroDivisionError
    assert _hook_count(model) == 0


def test_nested_blocks_take_off_only_their_own() -> None:
    model = _model("llama")
    before = _run(model)
    outer, inner = (_scrubber([FIRST["llama"]], lambda x: 2 * x, pre) for pre in (False, True))
    with outer.scrub(model):
        once = _run(model)
        with inner.scrub(model), outer.scrub(model):
            assert edits_on(model) == 3
        assert edits_on(model) == 1
        torch.testing.assert_close(_run(model), once, rtol=0, atol=0)
    torch.testing.assert_close(_run(model), before, rtol=0, atol=0)


def test_hooks_already_on_are_taken_off_if_one_cannot_be_put_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.LayerNorm(D), nn.LayerNorm(D))
    monkeypatch.setattr(model[1], "register_forward_hook", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError), _scrubber(["0", "1"], torch.clone).scrub(model):
        pass
    assert _hook_count(model) == 0


def test_hooks_of_others_stay() -> None:
    model = nn.Sequential(nn.LayerNorm(D))
    handle = model[0].register_forward_hook(lambda *_: None)
    with _scrubber(["0"], torch.clone).scrub(model):
        pass
    assert _hook_count(model) == 1
    handle.remove()


# ------------------------------------------------------------------------------------ what is refused

REFUSED = {
    "typo": ("layers-0-input_layernrom", r"did you mean 'layers-0-input_layernorm'"),
    "dots": ("layers.0.input_layernorm", r"did you mean 'layers-0-input_layernorm'"),
    "below the head": ("model-layers-1-input_layernorm", r"did you mean 'layers-1-input_layernorm'"),
    "no such layer": ("layers-7-input_layernorm", r"did you mean 'layers-[01]-input_layernorm'"),
    "not a norm": ("layers-0-mlp", r"is a LlamaMLP, not a layer whose class is named"),
    "nothing near": ("xyz", r"there are \['layers-0-input_layernorm'"),
}


@pytest.mark.parametrize(("key", "message"), REFUSED.values(), ids=REFUSED)
def test_unknown_layers_are_refused_with_near_misses(key: str, message: str) -> None:
    model = _model("llama")
    with pytest.raises(InputError, match=message), _scrubber([FIRST["llama"], key], torch.clone).scrub(model):
        pass
    assert _hook_count(model) == 0


class FakeFitter:
    """Looks like a fitter: statistics, and an eraser on demand."""

    def update(self, x: Tensor, z: Tensor) -> None: ...

    @property
    def eraser(self) -> None: ...


@pytest.mark.parametrize(("eraser", "message"), [(FakeFitter(), r"pass its `\.eraser`"), (3, "expected a callable")])
def test_what_is_no_eraser_is_refused(eraser: Any, message: str) -> None:
    with (
        pytest.raises(InputError, match=message),
        _scrubber(["0"], eraser).scrub(nn.Sequential(nn.LayerNorm(2))),
    ):
        pass


def test_paths_that_cannot_be_mangled_are_refused() -> None:
    model = nn.ModuleDict({"a-b": nn.LayerNorm(2)})
    with pytest.raises(InputError, match="'a-b' holds a '-'"), _scrubber(["a-b"], torch.clone).scrub(model):
        pass


def test_public_name_and_repr() -> None:
    assert "ConceptScrubber" in dir(efface.scrubbing)
    assert repr(_scrubber(["a"], torch.clone)) == "ConceptScrubber(pre_hook=False, erasers=['a'])"
