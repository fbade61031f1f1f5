"""The view on every kind of pipeline: it samples as the pipeline does, and knows where text goes."""

from functools import partial
from typing import Any

import pytest
import torch

from efface import InputError
from efface.pipelines import PipelineView
from tests.pipelines import BUILDERS, EMBEDDED, VIDEO, build, direct, small, state, tiny

# diffusers' Euler scheduler takes the square root of a tensor by numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
every_pipeline = pytest.mark.parametrize("name", BUILDERS)
PROMPTS, SEEDS = ["a red circle", "the small blue star"], [3, 4]


def view(name):
    return PipelineView.of(tiny(name))


def prepared(name, prompt="a red circle"):
    """A view, a prompt without its negative branch, latents and a time."""
    v = view(name)
    embedding = v.encode(prompt).replace(negative=None)
    call = v.prepare(embedding, seeds=[0], steps=2, **small(name))
    return v, embedding, call.latents, call.timesteps[0]


def used(name):
    """A pipeline of one's own that was called before: transformers leaves hooks in its models at the first call."""
    pipe = build(name)
    direct(name, ["a ring"], [0], pipe=pipe)
    return pipe


@every_pipeline
def test_one_sample_is_bit_for_bit_that_of_the_pipeline(name):
    mine = view(name).sample("a red circle", 3, steps=2, **small(name))
    assert torch.equal(mine, direct(name, PROMPTS[:1], [3]))
    assert mine.ndim == (5 if name in VIDEO else 4) and 0 <= mine.min() < mine.max() <= 1


@every_pipeline
def test_a_batch_with_guidance_and_negative_prompts_is_bit_for_bit_that_of_the_pipeline(name):
    scale: dict[str, Any] = {"true_cfg_scale": 3.0} if name in EMBEDDED else {"guidance_scale": 4.0}
    theirs = direct(name, PROMPTS, SEEDS, negative_prompt=["a ring", "a square"], **scale)
    mine = view(name).sample(PROMPTS, SEEDS, steps=2, negative=["a ring", "a square"], **scale, **small(name))
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, view(name).sample(PROMPTS, SEEDS, steps=2, **scale, **small(name)))


@every_pipeline
def test_encoding_first_and_sampling_then_is_the_same(name):
    v = view(name)
    embedding = v.encode(PROMPTS)
    plain = v.sample(PROMPTS, SEEDS, steps=2, **small(name))
    assert torch.equal(v.sample(embedding, SEEDS, steps=2, **small(name)), plain)
    latents = v.sample(embedding, SEEDS, steps=2, latent=True, **small(name))
    assert latents.shape == v.prepare(embedding, seeds=SEEDS, **small(name)).latents.shape


def test_prompts_that_are_read_whole_are_not_refused():
    v = view("sd1")
    assert v.check_prompts(PROMPTS) is None
    assert v.check_prompts([]) is None
    with pytest.raises(InputError, match="a prompt is a string, not int"):
        v.check_prompts([3])


def test_a_denoiser_that_there_is_not():
    v, embedding, latents, t = prepared("sd1")
    with pytest.raises(InputError, match="there is no denoiser 'x': write one of "):
        v.denoise(latents, t, embedding, denoiser="x")
    with pytest.raises(InputError, match="there is no denoiser 'x': write one of "):
        v.install_inside("x", {})


@every_pipeline
def test_a_sample_does_not_depend_on_its_batch(name):
    v = view(name)
    together = v.sample(PROMPTS, SEEDS, steps=2, **small(name))
    apart = v.sample(PROMPTS[::-1], SEEDS[::-1], steps=2, batch_size=1, **small(name)).flip(0)
    # Batched products round differently; another seed would move pictures by tenths.
    torch.testing.assert_close(together, apart, atol=2e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.05


@every_pipeline
def test_nothing_is_left_in_the_pipeline(name):
    pipe = used(name)
    before = state(pipe)
    v = PipelineView.of(pipe)
    embedding = v.encode(PROMPTS[0])
    call = v.prepare(embedding, **small(name))
    v.key_value_inputs(embedding)
    v.denoise(call.latents, call.timesteps[0], embedding, **small(name))
    v.tokens("a red circle")
    with v.edited(lambda e: e.replace(sequence=e.sequence * 1.01)), v.guided(lambda step: step.cond):
        v.sample(embedding, 3, steps=2, **small(name))
    assert state(pipe) == before


@every_pipeline
def test_nothing_is_left_in_the_pipeline_after_a_failure(name):
    pipe = used(name)
    before = state(pipe)
    v = PipelineView.of(pipe)

    def fail(_):
        raise RuntimeError("on purpose")

    for broken in (partial(v.edited, fail), partial(v.guided, fail)):
        with pytest.raises(RuntimeError, match="on purpose"), broken():
            v.sample("a red circle", 3, steps=2, **small(name))
        assert state(pipe) == before
    handle = v.vae.decoder.register_forward_pre_hook(lambda *_: fail(None))
    with pytest.raises(RuntimeError, match="on purpose"):
        v.sample("a red circle", 3, steps=2, **small(name))
    handle.remove()
    assert state(pipe) == before


@every_pipeline
def test_keys_and_values_carry_all_of_the_text(name):
    """With keys and values of another prompt's rows, the prediction is the other prompt's, whatever the prompt."""
    v, a, latents, t = prepared(name)
    b = v.encode("the small blue star").replace(negative=None, pooled=a.pooled, mask=a.mask)
    layers, rows, kept = v.key_value_layers(), a.sequence.shape[1], {}

    def keep(_module, _args, out, *, layer):
        kept[layer.path] = layer.text_rows(out, rows).clone()

    def put(_module, _args, out, *, layer):
        out = out.clone()
        layer.text_rows(out, rows).copy_(kept[layer.path])
        return out

    def predict(embedding, hook=None):
        handles = [x.module.register_forward_hook(partial(hook, layer=x)) for x in layers if hook]
        try:
            with torch.no_grad():
                return v.denoise(latents, t, embedding, **small(name))
        finally:
            for handle in handles:
                handle.remove()

    wanted = predict(a, keep)
    assert (predict(b) - wanted).abs().max() > 0.01
    assert torch.equal(predict(b, put), wanted)


@every_pipeline
def test_key_and_value_layers_say_what_they_are(name):
    v, a, latents, t = prepared(name)
    inputs = v.key_value_inputs(a, latents=latents, t=t, **small(name))
    layers = v.key_value_layers()
    assert [layer.path for layer in layers] == list(inputs)
    for layer in layers:
        assert v.denoiser.get_submodule(layer.path) is layer.module
        assert layer.path.endswith(layer.role)
        assert inputs[layer.path].shape == (1, a.sequence.shape[1], layer.width_in)
        assert layer.module.weight.shape == (layer.width_out, layer.width_in)
    sources = {s.encoder for s in v.layout if s.in_sequence}
    assert {e for layer in layers for e in layer.encoders} == sources


def test_inputs_of_plain_cross_attention_are_the_embedding_itself():
    for name in ("sd1", "sd2", "sdxl"):
        v, a, latents, t = prepared(name)
        assert all(
            torch.equal(x, a.sequence) for x in v.key_value_inputs(a, latents=latents, t=t, **small(name)).values()
        )


@pytest.mark.parametrize("name", ["sd3", "flux", "pixart-alpha", "pixart-sigma", "cogvideox", "ltx", "wan"])
def test_context_embedders_are_the_only_readers_of_the_embedding(name):
    """With what they gave for another prompt, the prediction is the other prompt's."""
    v, a, latents, t = prepared(name)
    b = v.encode("the small blue star").replace(negative=None, mask=a.mask)
    kept = {}
    embedders = v.context_embedders()
    assert {e.reads for e in embedders} == {"sequence"} | ({"pooled"} if a.pooled is not None else set())

    def predict(embedding, hook=None):
        handles = [e.module.register_forward_hook(partial(hook, path=e.path)) for e in embedders if hook]
        with torch.no_grad():
            out = v.denoise(latents, t, embedding, **small(name))
        for handle in handles:
            handle.remove()
        return out

    def keep(_module, _args, out, *, path):
        kept[path] = out

    wanted = predict(a, keep)
    assert (predict(b) - wanted).abs().max() > 0.01
    assert torch.equal(predict(b, lambda _m, _a, _o, *, path: kept[path]), wanted)


@every_pipeline
def test_denoise_gives_what_the_sampling_loop_gets(name):
    v = view(name)
    found = []
    unguided = {} if name in EMBEDDED else {"guidance_scale": 1.0}
    embedding = v.encode("a red circle")

    def keep(_module, _args, kwargs, out):
        found.append((kwargs, out[0]))

    handle = v.denoiser.register_forward_hook(keep, with_kwargs=True)
    v.sample(embedding, 3, steps=3, **unguided, **small(name))
    handle.remove()
    call = v.prepare(embedding, seeds=[3], steps=3, **small(name))
    scaled = call.arguments[next(iter(call.arguments))]
    mine = v.denoise(scaled, call.timesteps[0], embedding, **small(name))
    theirs = found[0][1]
    assert torch.equal(mine, theirs[:, : mine.shape[1]])
    later = v.denoise(scaled, call.timesteps[1], embedding, **small(name))
    assert not torch.equal(later, mine)


@every_pipeline
def test_gradients_reach_prompts_and_latents(name):
    v, a, latents, t = prepared(name)
    latents = latents.clone().requires_grad_()
    sequence = a.sequence.clone().requires_grad_()
    v.denoise(latents, t, a.replace(sequence=sequence), **small(name)).square().sum().backward()
    assert latents.grad is not None and latents.grad.abs().max() > 0
    assert sequence.grad is not None and sequence.grad.abs().max() > 0


@every_pipeline
def test_a_row_of_a_text_encoder_comes_out_where_the_layout_says(name):
    """Checked with the real encoders, while the layout is measured with encoders that compute nothing."""
    v = view(name)
    plain = v.encode("a red circle")
    for encoder, tokens in v.tokens("a red circle").items():
        row = tokens.rows("circle")[0]

        def nudge(_module, _args, out, row=row):
            for value in (out.last_hidden_state, *(out.get("hidden_states") or ())):
                value[:, row] += 1.0
            for field in ("pooler_output", "text_embeds"):
                if out.get(field) is not None:
                    out[field] += 1.0
            return out

        handle = v.text_encoders[encoder].register_forward_hook(nudge)
        try:
            moved = v.encode("a red circle")
        finally:
            handle.remove()
        at = (moved.sequence - plain.sequence)[0].nonzero()
        assert set(at[:, 0].tolist()) == set(tokens.sequence_rows([row]))
        if tokens.slot.in_sequence:
            assert (int(at[:, 1].min()), int(at[:, 1].max()) + 1) == tokens.slot.columns
        if tokens.slot.in_pooled:
            assert moved.pooled is not None and plain.pooled is not None
            changed = (moved.pooled - plain.pooled)[0].nonzero().flatten()
            assert (int(changed.min()), int(changed.max()) + 1) == tokens.slot.pooled


@every_pipeline
def test_rows_of_words_ends_and_padding(name):
    v = view(name)
    for encoder, tokens in v.tokens("a small red circle").items():
        tokenizer = v.tokenizers[tokens.tokenizer]
        rows = tokens.rows("red circle")
        assert list(rows) == list(range(rows[0], rows[-1] + 1))
        assert tokenizer.decode([tokens.ids[r] for r in rows]).strip() == "red circle"
        assert tokens.rows("CIRCLE") == tokens.rows("circle") != ()
        assert tokens.rows("ring") == () and tokens.rows("irc") == ()
        first, stop = tokens.padding
        assert all(tokens.ids[r] == tokenizer.pad_token_id for r in range(first, stop))
        if tokens.eos is not None:
            assert tokens.ids[tokens.eos] == tokenizer.eos_token_id and tokens.eos + 1 == first
        assert v.token_rows("a small red circle", "circle")[encoder].rows == tokens.rows("circle")


def test_what_is_found_in_each_pipeline():
    found = {name: view(name) for name in BUILDERS}
    assert {name: v.prediction_type for name, v in found.items()} == {
        "sd1": "epsilon",
        "sd2": "v_prediction",
        "sdxl": "epsilon",
        "sd3": "flow",
        "flux": "flow",
        "pixart-alpha": "epsilon",
        "pixart-sigma": "epsilon",
        "cogvideox": "v_prediction",
        "ltx": "flow",
        "hunyuan-video": "flow",
        "wan": "flow",
    }
    assert {name for name, v in found.items() if v.guidance.mode == "embedded"} == set(EMBEDDED)
    assert {name for name, v in found.items() if v.guidance.true_argument} == set(EMBEDDED)
    assert {name: len(v.text_encoders) for name, v in found.items() if len(v.text_encoders) > 1} == {
        "sdxl": 2,
        "sd3": 3,
        "flux": 2,
        "hunyuan-video": 2,
    }
    pooled = {name: [s.encoder for s in v.layout if s.in_pooled] for name, v in found.items()}
    assert {name: encoders for name, encoders in pooled.items() if encoders} == {
        "sdxl": ["text_encoder_2"],
        "sd3": ["text_encoder", "text_encoder_2"],
        "flux": ["text_encoder"],
        "hunyuan-video": ["text_encoder_2"],
    }
    assert {name for name, v in found.items() if any(x.reads == "joint" for x in v.key_value_layers())} == {
        "flux",
        "cogvideox",
        "hunyuan-video",
    }


def test_picture_and_text_of_equal_length_are_told_apart():
    """At 64 x 64 pixels the picture has 16 x 16 rows here: as many as the text, so that another size must be tried."""
    v = PipelineView.of(tiny("pixart-alpha"))
    v.__dict__["_reference"] = v.encode("a red circle", max_sequence_length=256)
    assert [layer.path for layer in v.key_value_layers()] == [x.path for x in view("pixart-alpha").key_value_layers()]


@pytest.mark.parametrize("name", ["sd1", "cogvideox"])
def test_the_scheduler_of_a_second_call_starts_as_that_of_the_first(name):
    v = view(name)
    first = v.sample("a red circle", 3, steps=3, **small(name))
    v.prepare(v.encode("a red circle"), steps=7, **small(name))
    assert torch.equal(v.sample("a red circle", 3, steps=3, **small(name)), first)


def test_half_a_sign_is_refused_by_every_door_of_prompts():
    v, half = view("sd1"), "a \ud800 circle"
    for call in (
        lambda: v.tokens(half),
        lambda: v.token_rows(half, "circle"),
        lambda: v.check_prompts([half], truncate=True, allow_unknown=True),
        lambda: v.encode(half, truncate=True, allow_unknown=True),
        lambda: v.encode("a circle", negative=half, truncate=True, allow_unknown=True),
        lambda: v.sample(half, 0, steps=1, truncate=True, allow_unknown=True),
        lambda: v.text.encode([half], None),
        lambda: v.text.encode(["a"], [half]),
    ):
        with pytest.raises(InputError, match="half of a sign"):
            call()


def test_there_is_a_seed_for_each_prompt_that_is_prepared():
    v = view("sd1")
    for seeds in ([0, 1], [], torch.arange(6)):
        with pytest.raises(InputError, match=f"{len(seeds)} seeds for 1 prompts"):
            v.prepare(v.encode("a red circle"), seeds=seeds)
