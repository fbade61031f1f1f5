"""What passes an edit by is told, and what is wrapped is seen through: models, then pipelines."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import EffaceWarning, InputError
from efface._errors import NotReachedWarning
from efface.core.edits import OnStates, OnWeights
from efface.core.hooks import edits_on
from efface.core.site import Site
from efface.core.weights import Multiply
from efface.pipelines import PipelineView
from tests.edits import Holds, Shift, X, changing, layers, said
from tests.models import tiny
from tests.pipelines import build, df


def test_edits_come_before_everybody_elses_hooks_and_in_their_own_order() -> None:
    model, seen = layers(), list[Tensor]()
    model[0].register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    double, plus = OnStates({Site("0"): lambda x: 2 * x}), OnStates({Site("0"): lambda x: x + 1})
    plain = model[0](X)
    seen.clear()
    twice, more = Holds((double,)), Holds((plus,))

    with twice.on(model), more.on(model):
        model(X)
        assert torch.equal(seen[-1], 2 * plain + 1) and edits_on(model) == 2
    with more.on(model), twice.on(model):
        model(X)
        assert torch.equal(seen[-1], 2 * (plain + 1))


def test_transformers_shows_erased_states_even_if_it_was_asked_before() -> None:
    model, ids = tiny("llama"), torch.arange(8)[None] + 3
    with torch.no_grad():
        model(ids, output_hidden_states=True)  # its own hooks are on from here on
        zero = OnStates({Site("model.layers.0"): torch.zeros_like})

        with Holds((zero,)).on(model):
            assert not model(ids, output_hidden_states=True).hidden_states[1].any()


def test_a_site_that_is_never_passed_is_told() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Skips()
    both = Holds((OnStates({Site("used"): torch.zeros_like, Site("unused"): torch.zeros_like}),))

    run = both.on(model)
    with pytest.warns(NotReachedWarning, match="Skips was called and never came by unused: nothing was erased there"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)  # it has been said
    with pytest.warns(NotReachedWarning, match="ran 2 times and never came by unused"):
        run.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with both.on(model):
            pass


class _Two(nn.Module):
    """Two layers; how the first one is run is what a test is about."""

    def __init__(self, first: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run, self.kept = first, ()

    def forward(self, x: Tensor) -> Any:
        found = self.run(self, x)
        return (self.second(found[0]), found[1]) if isinstance(found, tuple) else self.second(found)


def _kept(model: Any, x: Tensor) -> Tensor:
    """The first layer keeps what it gives in an attribute, from within."""
    forward = nn.Linear.forward
    model.first.forward = lambda x: model.__setattr__("kept", [forward(model.first, x)]) or model.kept[0]
    return model.first(x)


def _captured(model: Any, x: Tensor) -> tuple[Tensor, Any]:
    """The model gives what the first layer gave from within, as transformers did by patches of `forward`."""
    found = _kept(model, x)
    seen, model.kept = (x, *model.kept), ()
    return found, {"hidden_states": seen}


class _Reads(nn.Module):
    """Reads the hidden states that a part has captured, and gives none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = _Two(_captured)

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)[1]["hidden_states"][-1] + 1


@pytest.mark.parametrize(
    ("model", "path", "told"),
    [
        (_Two(lambda model, x: model.first.forward(x)), "first", "_Two was called and never came by first"),
        (_Two(_captured), "first", "_Two gives the hidden states of first as they were before"),
        (_Two(_kept), "first", "_Two keeps hidden states in its attribute 'kept' as they were before"),
        (_Reads(), "tower.first", "_Two gives the hidden states of tower.first as they were before"),
    ],
    ids=["forward", "captured", "kept", "inside"],
)
def test_who_passes_an_edit_by_is_told_at_the_first_call(model: Any, path: str, told: str) -> None:
    with torch.no_grad(), Holds((OnStates({Site(path): torch.zeros_like}),)).on(model):
        with pytest.warns(NotReachedWarning, match=told) as said:
            model(X)
        assert len(said) == 1


def test_a_cache_that_was_filled_before_is_told() -> None:
    model, ids = tiny("llama"), torch.arange(8)[None] + 3
    erasure = Holds((OnStates({Site("model.layers.0"): torch.zeros_like}),))
    with torch.no_grad():
        before = model(ids, use_cache=True).past_key_values
        with erasure.on(model):
            within = copy.deepcopy(model(ids, use_cache=True).past_key_values)
            model(ids[:, :1], past_key_values=within)
            model.generate(ids, max_new_tokens=3, do_sample=False)
            with pytest.warns(NotReachedWarning, match=r"past_key_values was filled without Holds\(\)"):
                model(ids[:, :1], past_key_values=before)


@pytest.mark.parametrize("wrap", ["torch.compile", "compile", "data parallel", "replica", "checkpoint"])
def test_parts_that_are_wrapped_have_the_sites_of_the_bare_model(wrap: str) -> None:
    model = nn.Sequential(layers(), nn.Linear(4, 4))
    plain, site = model(X), Site("0.0")
    with Holds((OnStates({site: torch.zeros_like}),)).on(model):
        expected = model(X)
    if wrap == "torch.compile":
        model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    elif wrap == "compile":
        model[0].compile(backend="eager")
    elif wrap == "data parallel":
        model[0] = nn.DataParallel(model[0])
    elif wrap == "checkpoint":
        wrapper = importlib.import_module("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
        model[0] = wrapper.checkpoint_wrapper(model[0])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.compile's own deprecations
        torch.testing.assert_close(model(X), plain)  # compiled before the erasure comes
        with Holds((OnStates({site: torch.zeros_like}),)).on(model):
            called = _replicated(model) if wrap == "replica" else model
            torch.testing.assert_close(called(X), expected)
    assert not torch.allclose(expected, plain)


def _replicated(module: Any) -> Any:
    """What DataParallel runs on another device."""
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter)
    for name, part in module._modules.items():
        replica._modules[name] = _replicated(part)
    return replica


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_part_that_was_scripted_or_traced_is_refused(how: str) -> None:
    model = nn.Sequential(layers(), nn.Linear(4, 4))
    part = torch.jit.script(model[0]) if how == "script" else torch.jit.trace(model[0], X)
    model[0] = part  # type: ignore[assignment]
    for path in ("0", "0.0"):
        with pytest.raises(InputError, match="scripted or traced"):
            Holds((OnStates({Site("1"): torch.zeros_like, Site(path): torch.zeros_like}),)).on(model)
    assert not edits_on(model[1])


def test_weights_that_are_taken_of_a_part_while_an_erasure_is_on_are_told(tmp_path: Any) -> None:
    model, file = nn.Sequential(layers(), nn.Linear(4, 4)), tmp_path / "model.pt"
    with Holds((OnStates({Site("0.0"): torch.zeros_like, Site("0.1"): torch.zeros_like}),)).on(model):
        for part in (model, model[0]):
            with pytest.warns(EffaceWarning, match="weights are taken of a Linear that an erasure is on") as told:
                torch.save(part.state_dict(), file)
            assert len(told) == 1
            with pytest.raises(InputError, match="cannot be pickled with it"):
                torch.save(part, file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model[1].state_dict()  # nothing is on it
    torch.save(model, file)


def test_who_saves_what_an_erasure_is_on_is_told(tmp_path: Any) -> None:
    pipe, model = build("sd1"), tiny("llama")
    for kind in ("text", "prediction", "swap"):
        told = pytest.warns(EffaceWarning, match=r"Pipeline without Shift\(\), Shift\(\): save the erasure, too")
        with Shift(0.5, kind).on(pipe), Shift(1.0, kind).on(pipe), told:
            pipe.save_pretrained(tmp_path / kind)
    with Shift(0.5, "rows").on(model):
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied.lm_head.weight.zero_()
        with pytest.warns(EffaceWarning, match=r"the LlamaForCausalLM without Shift\(\)"):
            model.save_pretrained(tmp_path / "model")
        copied.save_pretrained(tmp_path / "copy")  # its own weights
    assert not bool(type(model).from_pretrained(tmp_path / "copy").lm_head.weight.any())
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        pipe.save_pretrained(tmp_path / "off")
        with Shift(0.5, "unet").on(pipe):
            pipe.save_pretrained(tmp_path / "unet")  # weights are saved with what is in them


@pytest.mark.parametrize("kind", ["text", "prediction", "swap"])
def test_another_pipeline_of_the_same_parts_is_told_that_nothing_is_on_it(kind: str) -> None:
    pipe = build("sd1")
    plain, other = said(pipe), type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    with Shift(0.5, kind).on(pipe):
        with pytest.warns(NotReachedWarning, match="that shares the .* of a pipeline is drawing") as told:
            assert torch.equal(said(other), plain) and torch.equal(said(other), plain)
        assert len(told) == 1
    with Shift(0.5, kind).on(pipe), Shift(1.0, kind).on(other):
        assert not torch.equal(said(other), plain) and not torch.equal(said(pipe), said(other))


def test_a_refiner_that_shares_a_text_encoder_is_told() -> None:
    pipe = build("sdxl")
    own = {"cross_attention_dim": 24, "projection_class_embeddings_input_dim": 5 * 8 + 20}
    unet = type(pipe.unet).from_config({**pipe.unet.config, **own})
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder_2", "tokenizer_2", "scheduler")}
    given: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    refiner = df.StableDiffusionXLImg2ImgPipeline(**parts, **given, unet=unet, add_watermarker=False)
    refiner.set_progress_bar_config(disable=True)
    call = {"image": torch.rand(1, 3, 32, 32), "num_inference_steps": 4, "output_type": "latent"}
    with Shift(0.5, "text").on(pipe), pytest.warns(NotReachedWarning, match="shares the CLIPTextModelWithProjection"):
        refiner("a red circle", **call)


def test_who_has_a_loop_of_his_own_is_told_that_no_rule_acts_in_it() -> None:
    view = PipelineView.of(build("sd1"))
    call = view.prepare(view.encode("a red circle"), height=32, width=32)
    arguments = call.with_inputs(call.latents, 500, view.encode("a red circle"))
    with Shift(0.5, "prediction").on(view), pytest.warns(NotReachedWarning, match="outside of its pipeline's call"):
        view.denoiser(**arguments)


def test_rows_of_text_that_come_past_the_edit_are_told_once() -> None:
    pipe = build("sd1")
    other = torch.cat(pipe.encode_prompt("the small star", "cpu", 1, True)[::-1])
    steps: list[Any] = []

    def change(_pipe: Any, _index: int, _t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "prompt_embeds": other}

    def rule(step: Any) -> None:
        steps.append((step.embedding.prompts, (step.predict(step.embedding) - step.cond).abs().max() < 1e-4))

    call: dict[str, Any] = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    call |= {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "latent"}
    warned = pytest.warns(NotReachedWarning, match="given other rows of text than Shift.. has edited")
    with Shift(0.5, "text").on(pipe), PipelineView.of(pipe).guided(rule), warned as told:  # type: ignore[arg-type]
        pipe("a red circle", **call)
    assert len(told) == 1
    assert steps == [(("a red circle",), True), ((), True), ((), True)]  # a rule is given what is there


def test_a_denoiser_that_is_replaced_under_a_rule_is_told() -> None:
    pipe, other = build("sd1"), build("sd1").unet
    with Shift(0.5, "prediction").on(pipe):
        pipe.unet = other
        with pytest.warns(NotReachedWarning, match="the unet of this StableDiffusionPipeline was replaced"):
            said(pipe)
    with Shift(0.5, "text").on(pipe):
        pipe.unet = build("sd1").unet  # which edits of text do not mind
        said(pipe)


def test_weights_that_are_taken_of_a_part_of_a_pipeline_are_told(tmp_path: Any) -> None:
    pipe = build("sd1")
    with Shift(0.5, "text").on(pipe):
        for part in (pipe.unet, pipe.text_encoder):
            with pytest.warns(EffaceWarning, match=f"weights are taken of a {type(part).__name__} that an erasure"):
                part.state_dict()
        with pytest.raises(InputError, match="on this pipeline, which cannot be pickled with it"):
            torch.save(pipe, tmp_path / "pipe.pt")
    pipe.unet.state_dict()


OTHERS = [("text", "torch.compile"), ("prediction", "compile"), ("swap", "torch.compile"), ("swap", "compile")]


@pytest.mark.parametrize(
    ("kind", "how"),
    [("text", "compile"), ("prediction", "torch.compile"), *(pytest.param(*o, marks=pytest.mark.slow) for o in OTHERS)],
)
def test_a_compiled_denoiser_is_seen_through(kind: str, how: str) -> None:
    expected, plain = {}, said(build("sd1"))
    for compiled in (False, True):
        pipe = build("sd1")
        if compiled and how == "compile":
            pipe.unet.compile(backend="eager")
        elif compiled:
            pipe.unet = torch.compile(pipe.unet, backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.compile's own deprecations
            with Shift(0.5, kind).on(pipe):
                expected[compiled] = said(pipe)
            torch.testing.assert_close(said(pipe), plain)
    torch.testing.assert_close(expected[True], expected[False])


def test_another_text_encoder_than_that_of_the_fit_is_refused_untouched() -> None:
    pipe = build("sd1")
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    before, guided = said(pipe), efface.erase(pipe, "circle", method="negative-prompt")
    with torch.no_grad():
        next(iter(pipe.text_encoder.parameters())).mul_(1.5)
    changed = said(pipe)
    for erasure in (known, known & guided):
        with pytest.raises(InputError, match="CLIPTextModel is not the model of the fit.*check=False"):
            erasure.on(pipe)
    assert torch.equal(said(pipe), changed) and not torch.equal(changed, before)
    with known.on(pipe, check=False), guided.on(pipe):
        assert not torch.equal(said(pipe), changed)


def test_a_text_encoder_that_changes_while_an_erasure_is_on_is_refused() -> None:
    pipe = build("sd1")
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    with known.on(pipe):
        on = said(pipe)
        pipe.to(torch.bfloat16)
        said(pipe)  # the same model
        pipe.to(torch.float32)
        with torch.no_grad():
            next(iter(pipe.text_encoder.parameters())).data.mul_(1.5)  # as an adapter is fused
        with pytest.raises(InputError, match="CLIPTextModel is not the model of the fit"):
            said(pipe)
    with known.on(pipe, check=False):
        assert not torch.equal(said(pipe), on)


def test_a_token_that_was_taught_since_is_told_where_it_is_used() -> None:
    pipe = build("sd1")
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    pipe.load_textual_inversion({"<cat>": torch.randn(1, 32)}, token="<cat>")
    with known.on(pipe):
        pipe("a circle", **call)
        with pytest.warns(NotReachedWarning, match="the prompt has '<cat>', which was added to the tokenizer"):
            pipe("a <cat>", **call)


def test_another_layer_of_the_text_encoder_than_that_of_the_fit_is_refused() -> None:
    pipe = build("sdxl")
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    with known.on(pipe):
        pipe("a red circle", clip_skip=None, **call)
        with pytest.raises(InputError, match="clip_skip=1 takes another layer of the text encoder"):
            pipe("a red circle", clip_skip=1, **call)
    with efface.erase(pipe, "circle", method="negative-prompt").on(pipe):
        pipe("a red circle", clip_skip=1, **call)


@pytest.mark.parametrize("wrap", ["compile", "torch.compile", "forward", "data parallel"])
def test_wrappers_are_seen_through(wrap: str) -> None:
    model = layers()
    called: Any = model
    if wrap == "compile":
        model.compile(backend="eager")
    elif wrap == "torch.compile":
        called = torch.compile(model, backend="eager")
    elif wrap == "forward":
        model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    else:
        called = nn.DataParallel(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.compile's own deprecations
        plain = called(X)
        for subject in (model, called):
            with Shift(0.5, "states").on(subject):
                assert not torch.allclose(called(X), plain)
            torch.testing.assert_close(called(X), plain)


def test_peft_is_seen_through() -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    ids = torch.arange(8)[None] + 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for an old name
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2)).eval()
    delta = changing({"model.layers.0.self_attn.q_proj.weight": Multiply(left=torch.zeros(32, 32))})
    gone = Holds((OnWeights(delta), OnStates({Site("model.layers.0"): torch.zeros_like})))

    with torch.no_grad():
        plain = wrapped(input_ids=ids).logits
        with gone.on(wrapped) as run:
            assert not torch.allclose(wrapped(input_ids=ids).logits, plain)
            assert run.log.counts == {"model.layers.0": 1}
        assert torch.equal(wrapped(input_ids=ids).logits, plain)


def test_offloading_by_accelerate_is_seen_through() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = layers()
    plain = said(model)
    with Shift(0.5, "states").on(model):
        expected = said(model)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model[0].weight.device.type == "meta" and torch.equal(said(model), plain)
    with Shift(0.5, "states").on(model):
        assert torch.equal(said(model), expected)
    assert torch.equal(said(model), plain)
    with pytest.raises(InputError, match="not in memory"):
        Shift(0.5, "weights").on(model)
    assert torch.equal(said(model), plain)
