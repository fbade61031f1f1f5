"""A scrubbed model in TransformerLens, nnsight and lm-evaluation-harness is the scrubbed model under hooks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from nnsight import NNsight, TransformersModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import PreTrainedTokenizerFast

import efface
from efface.scrubbing import Scrubber, Site, find_sites
from efface.scrubbing.adapters import nnsight_edited, transformer_lens_hooks
from tests.models import VOCABULARY, concept, data, hooks, padding, tiny, tokens

ROLES = ["norms", "residual", "attn_out", "mlp_out"]
DECODERS = ["llama", "gemma2", "qwen3", "mixtral", "phi", "phi3", "gpt2", "gpt_neox", "opt"]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def scrubbed(name: str, sites: Any, **changes: Any) -> tuple[Any, Scrubber]:
    model = tiny(name, **changes)
    return model, efface.scrub(model, data(name), concept(name), sites=sites)


def tokenizer() -> Any:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    split = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def text(ids: Tensor) -> str:
    return " ".join(f"w{i}" for i in ids.tolist())


def difference(a: Tensor, b: Tensor) -> float:
    """Relative to the size of what is compared."""
    return float((a - b).abs().max() / b.abs().max())


# ------------------------------------------------------------------------------------------- TransformerLens


def bridge_of(model: Any) -> Any:
    return build_bridge_from_module(copy.deepcopy(model), type(model).__name__, hf_config=model.config)


def with_eager_attention(model: Any) -> Any:
    """What TransformerLens computes with; the other kernels of torch round in another way."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_a_bridge_are_those_under_hooks(name: str, role: str) -> None:
    model, scrubber = scrubbed(name, role)
    eager, bridge, ids = with_eager_attention(model), bridge_of(model), tokens()[:4]
    plain = bridge(ids)
    with scrubber.on(eager):
        expected = eager(input_ids=ids).logits
    assert difference(bridge.run_with_hooks(ids, fwd_hooks=transformer_lens_hooks(scrubber, bridge)), expected) < 3e-6
    assert difference(plain, expected) > 0.1
    assert torch.equal(bridge(ids), plain), "no hook is left behind"


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("llama", "model.layers.*.self_attn.[qkv]_proj"),
        ("llama", "model.layers.*.self_attn.o_proj:input"),
        ("llama", ["model.layers.*:input", "model.layers.*.self_attn:input", "model.layers.*.mlp:input"]),
        ("llama", ["model.embed_tokens", "model.layers.*.mlp.down_proj:input", "lm_head:input"]),
        ("qwen3", "model.layers.*.self_attn.q_proj"),
        ("gpt2", ["transformer.h.*.attn.c_proj", "transformer.h.*.attn.c_proj:input"]),
    ],
)
def test_inputs_and_parts_of_attention_have_hook_points(name: str, sites: Any) -> None:
    model, scrubber = scrubbed(name, sites)
    eager, bridge, ids = with_eager_attention(model), bridge_of(model), tokens()[:4]
    with scrubber.on(eager):
        expected = eager(input_ids=ids).logits
    assert difference(bridge.run_with_hooks(ids, fwd_hooks=transformer_lens_hooks(scrubber, bridge)), expected) < 3e-6


def test_the_names_are_those_that_users_of_transformer_lens_know() -> None:
    model, scrubber = scrubbed("llama", ["norms", "residual"])
    names = [name for name, _ in transformer_lens_hooks(scrubber, bridge_of(model))]
    assert set(names) >= {"blocks.0.ln1.hook_out", "blocks.0.ln2.hook_out", "blocks.0.hook_out", "ln_final.hook_out"}


def test_a_cache_holds_what_was_erased() -> None:
    model, scrubber = scrubbed("llama", "norms")
    bridge, first = bridge_of(model), scrubber.sites[0]
    (name, _), *_ = fwd_hooks = transformer_lens_hooks(scrubber, bridge)
    _, before = bridge.run_with_cache(tokens())
    with bridge.hooks(fwd_hooks=fwd_hooks):
        _, after = bridge.run_with_cache(tokens())
    torch.testing.assert_close(after[name], scrubber.erasers[first](before[name]))
    seen = padding() == 1
    means = torch.stack([after[name][seen & (concept("llama") == k)].mean(0) for k in range(3)])
    torch.testing.assert_close(means, means[:1].expand_as(means), rtol=0, atol=1e-5)


def test_generation_of_a_bridge() -> None:
    model, scrubber = scrubbed("llama", "norms")
    bridge, options = bridge_of(model), {"max_new_tokens": 6, "do_sample": False}
    with scrubber.on(model):
        expected = model.generate(tokens()[:4], **options)
    with bridge.hooks(fwd_hooks=transformer_lens_hooks(scrubber, bridge)):
        found = bridge.generate(tokens()[:4], **options, verbose=False, return_type="tokens", stop_at_eos=False)
    assert torch.equal(found[:, : expected.shape[1]], expected)


def test_compatibility_mode_must_leave_the_weights_alone() -> None:
    model, scrubber = scrubbed("llama", "norms")
    bridge = bridge_of(model)
    bridge.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    with scrubber.on(model):
        expected = model(input_ids=tokens()).logits
    found = bridge.run_with_hooks(tokens(), fwd_hooks=transformer_lens_hooks(scrubber, bridge))
    assert difference(found, expected) < 3e-6
    folded = bridge_of(model)
    folded.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(efface.InputError, match="no_processing=True"):
        transformer_lens_hooks(scrubber, folded)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("model", "has no hook point for model"),
        ("model.layers.0.mlp.act_fn", "has no hook point for model.layers.0.mlp.act_fn"),
        ("model.layers.0.self_attn:output[1]", "has no hook point for model.layers.0.self_attn:output"),
        ("model.layers.7", "has no hook point for model.layers.7"),
        ("model.layers.0.self_attn.qkv_proj", "never comes by its hook point 'blocks.0.attn.qkv.hook_out'"),
    ],
)
def test_a_site_that_would_not_be_erased_is_refused(site: str, message: str) -> None:
    with pytest.raises(efface.InputError, match=message):
        transformer_lens_hooks(Scrubber.at({site: torch.zeros_like}), bridge_of(tiny("phi3")))


def test_only_a_bridge_takes_hooks() -> None:
    model, scrubber = scrubbed("llama", "norms")
    with pytest.raises(efface.InputError, match="got LlamaForCausalLM"):
        transformer_lens_hooks(scrubber, model)


# --------------------------------------------------------------------------------------------------- nnsight


def logits_of(wrapped: Any) -> Tensor:
    with wrapped.trace(input_ids=tokens()):
        found = wrapped.output.logits.save()
    return found


@pytest.mark.filterwarnings("ignore:Module '.*' has a submodule named 'output':UserWarning")
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "bert", "t5"])
def test_outputs_of_a_trace_are_those_under_hooks(name: str) -> None:
    model, scrubber = scrubbed(name, ["norms", "attn_out"])
    wrapped: Any = NNsight(model)
    batch = {key: value[:4] for key, value in data(name).items()}
    plain = model(**batch)[0]
    with scrubber.on(model):
        expected = model(**batch)[0]
    edited = nnsight_edited(scrubber, wrapped)
    for _ in range(2):
        with edited.trace(**batch):
            found = edited.output[0].save()
        assert torch.equal(found, expected)
    with wrapped.trace(**batch):
        untouched = wrapped.output[0].save()
    assert torch.equal(untouched, plain)
    assert not hooks(model)


def test_a_trace_shows_what_was_erased_and_can_patch_it() -> None:
    model, scrubber = scrubbed("llama", ["model.layers.1.self_attn:input", "norms"])
    wrapped = NNsight(model)
    edited, site = nnsight_edited(scrubber, wrapped), Site("model.layers.0.input_layernorm")
    with wrapped.trace(input_ids=tokens()):
        before = wrapped.get(site.path).output.save()
    with edited.trace(input_ids=tokens()):
        after = edited.get(site.path).output.save()
        edited.model.layers[1].mlp.output = torch.zeros_like(edited.model.layers[1].mlp.output)
        found = edited.output.logits.save()
    assert torch.equal(after, scrubber.erasers[site](before))
    zeroed = Scrubber({**scrubber.erasers, Site("model.layers.1.mlp"): torch.zeros_like})
    with zeroed.on(model):
        assert torch.equal(model(input_ids=tokens()).logits, found)


def test_a_trace_under_hooks_has_the_same_logits() -> None:
    model, scrubber = scrubbed("llama", "norms")
    wrapped = NNsight(model)
    expected = logits_of(nnsight_edited(scrubber, wrapped))
    with scrubber.on(model):
        assert torch.equal(logits_of(wrapped), expected)


def test_each_step_of_a_generation_is_scrubbed_and_each_prompt_of_a_batch() -> None:
    model, scrubber = scrubbed("llama", "norms")
    ids, options = tokens()[:4], {"max_new_tokens": 6, "do_sample": False}
    edited = nnsight_edited(scrubber, TransformersModel(model, tokenizer=tokenizer(), task="text-generation"))
    plain = model.generate(ids, **options)
    with scrubber.on(model):
        expected, logits = model.generate(ids, **options), model(input_ids=ids).logits
    with edited.generate(ids, **options) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)
    assert not torch.equal(expected, plain)
    with edited.trace() as tracer:
        with tracer.invoke(ids[:1]):
            one = edited.output.logits.save()
        with tracer.invoke(ids[1:]):
            others = edited.output.logits.save()
    torch.testing.assert_close(torch.cat([one, others]), logits)


def test_an_encoder_runs_once_and_its_decoder_many_times() -> None:
    model, scrubber = scrubbed("t5", ["norms", "residual"])
    ids, options = tokens()[:4], {"max_new_tokens": 6, "do_sample": False}
    with scrubber.on(model):
        expected = model.generate(ids, **options)
    assert not torch.equal(model.generate(ids, **options), expected)
    wrapped: Any = NNsight(model)
    with nnsight_edited(scrubber, wrapped).trace(ids, fn=model.generate, **options) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)


def test_edited_models_can_be_edited_again_and_sites_come_in_any_order() -> None:
    model, scrubber = scrubbed("llama", "norms")
    more = Scrubber.at({"model.layers.0.mlp": torch.zeros_like})
    once = nnsight_edited(dict(reversed(scrubber.erasers.items())), NNsight(model))
    twice = nnsight_edited(more, once)
    with scrubber.on(model):
        expected = model(input_ids=tokens()).logits
        with more.on(model):
            both = model(input_ids=tokens()).logits
    assert torch.equal(logits_of(twice), both)
    assert torch.equal(logits_of(once), expected)


def test_an_error_in_an_eraser_reaches_the_user_and_leaves_no_trace() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("broken eraser")

    model = tiny("llama")
    wrapped = NNsight(model)
    plain = model(input_ids=tokens()).logits
    edited = nnsight_edited({site: broken for site in find_sites(model, "norms")}, wrapped)
    with pytest.raises(ValueError, match="broken eraser"):
        logits_of(edited)
    assert torch.equal(logits_of(wrapped), plain)


def test_only_an_nnsight_model_with_the_sites_can_be_edited() -> None:
    model, scrubber = scrubbed("llama", "norms")
    with pytest.raises(efface.InputError, match="got LlamaForCausalLM"):
        nnsight_edited(scrubber, model)
    with pytest.raises(efface.InputError, match="has no model.layers.0.input_layernorm"):
        nnsight_edited(scrubber, NNsight(tiny("gpt2")))


# ------------------------------------------------------------------------------------ lm-evaluation-harness


def log_likelihoods(model: Any) -> Tensor:
    """Of the last three tokens of each sequence, as lm-evaluation-harness scores them."""
    wrap: Any = HFLM  # its decorators hide the signature
    harness = wrap(pretrained=model, tokenizer=tokenizer(), batch_size=5)
    pairs = [(text(row[:-3]), f" {text(row[-3:])}") for row in tokens()]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    return torch.tensor([score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)])


def reference(logits: Tensor) -> Tensor:
    ahead = logits.log_softmax(-1)[:, :-1].gather(-1, tokens()[:, 1:, None])[..., 0]
    return ahead[:, -3:].sum(-1)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_the_harness_scores_the_scrubbed_model(name: str) -> None:
    model, scrubber = scrubbed(name, "norms")
    plain = log_likelihoods(model)
    torch.testing.assert_close(plain, reference(model(input_ids=tokens()).logits), rtol=1e-5, atol=1e-5)
    with scrubber.on(model):
        found, logits = log_likelihoods(model), model(input_ids=tokens()).logits
    torch.testing.assert_close(found, reference(logits), rtol=1e-5, atol=1e-5)
    assert (found - plain).abs().min() > 1e-3
    assert torch.equal(log_likelihoods(model), plain)


def test_the_harness_does_not_undo_a_fold() -> None:
    """It calls `tie_weights()`, which must not give a head that holds an eraser the embedding's weights again."""
    model, scrubber = scrubbed("llama", "norms", tie_word_embeddings=True)
    with scrubber.on(model):
        expected = log_likelihoods(model)
    with scrubber.folded(model).on(model):
        torch.testing.assert_close(log_likelihoods(model), expected, rtol=1e-4, atol=1e-4)
        assert model.lm_head.weight is not model.model.embed_tokens.weight
