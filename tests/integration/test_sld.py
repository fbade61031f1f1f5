"""Safe Latent Diffusion: the paper's formulas and diffusers' own pipeline, on tiny pipelines of every make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from efface import Concept, InputError, NothingErasedWarning, PipelineView, erase
from efface.diffusion.guidance.sld import PRESETS, SafeLatentDiffusion, Strength
from tests.pipelines import build, df, direct, small, state, tiny

PROMPTS, SEEDS = ["a red circle", "the small blue star"], [3, 4]
EARLY = {"warmup": 1}
GUIDED = ["sd1", "sd2", "sdxl", "sd3", "pixart-alpha", "cogvideox", "wan"]


def safe(pipe: Any, **options: Any) -> SafeLatentDiffusion:
    return erase(pipe, Concept("circle", synonyms=["ring"]), method="sld", **options)


def gammas(strength: Strength, predictions: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """Equations 4 to 8 of the paper, element by element: predictions for prompt, negative prompt and concept."""
    found, nu = [], torch.zeros_like(predictions[0][0])
    for e_p, e_0, e_s in predictions:
        mu = torch.zeros_like(e_p)
        under = e_p - e_s < strength.threshold
        mu[under] = torch.minimum(torch.ones_like(e_p), strength.scale * (e_p - e_s).abs())[under]
        gamma = mu * (e_s - e_0) + strength.momentum_scale * nu
        nu = strength.momentum_beta * nu + (1 - strength.momentum_beta) * gamma
        found.append(gamma)
    return found


@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("preset", "own"),
    [("weak", {"scale": 20.0, "warmup": 2}), ("medium", {"warmup": 3}), ("strong", {"warmup": 2}), ("max", {})],
)
def test_it_agrees_with_the_pipeline_of_diffusers(preset: Any, own: dict[str, Any]) -> None:
    """Against the reference's own call, in float64: where an element is at the threshold, rounding decides."""
    pipe = build("sd1").to(dtype=torch.float64)
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    reference = df.StableDiffusionPipelineSafe(**parts, requires_safety_checker=False)
    reference.set_progress_bar_config(disable=True)
    reference.safety_concept = "circle, ring"
    erasure = safe(pipe, preset=preset, **own)
    s = erasure.config.strength
    names = {
        "sld_guidance_scale": s.scale,
        "sld_warmup_steps": s.warmup,
        "sld_threshold": s.threshold,
        "sld_momentum_scale": s.momentum_scale,
        "sld_mom_beta": s.momentum_beta,
    }
    call = {"num_inference_steps": 6, "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "np"}

    def noise() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in SEEDS]

    wanted = reference(PROMPTS, generator=noise(), **call, **names).images
    plain = pipe(PROMPTS, generator=noise(), **call).images
    with erasure.on(pipe):
        found = pipe(PROMPTS, generator=noise(), **call).images
    assert abs(found - wanted).max() < 1e-5
    assert abs(plain - wanted).max() > 1e-2


@pytest.mark.parametrize("name", GUIDED)
def test_it_is_what_the_formulas_say(name: str) -> None:
    view = PipelineView.of(tiny(name))
    erasure = safe(view, preset="strong", **EARLY)
    concept = view.encode(["circle, ring"] * 2, allow_unknown=True)
    options = {"steps": 3, "guidance": 3.0, **small(name)}
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    replaced: list[Tensor] = []

    def before(step: Any) -> None:
        uncond = step.predict(step.embedding.negative) if step.uncond is None else step.uncond
        seen.append((step.cond, uncond, step.predict(concept)))

    with view.guided(before), erasure.on(view), view.guided(lambda step: replaced.append(step.cond)):  # type: ignore[arg-type,return-value]
        view.sample(PROMPTS, SEEDS, **options)
    expected = gammas(erasure.config.strength, seen)
    assert torch.equal(replaced[0], seen[0][0])  # warm-up
    for i in (1, 2):
        # An element at the threshold may fall on either side of it; the third pass is made twice here.
        close = torch.isclose(replaced[i], seen[i][0] - expected[i], atol=1e-4, rtol=1e-3)
        assert close.float().mean() > 0.999
        assert not torch.isclose(replaced[i], seen[i][0], atol=1e-4).all()


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "pixart-alpha", "wan"])
def test_every_way_into_the_pipeline_is_guided_and_left_clean(name: str) -> None:
    view, options = PipelineView.of(build(name)), {"steps": 2, **small(name)}
    before, clean = view.encode(PROMPTS), state(view.pipe)
    plain = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
    erasure = safe(view, preset="max")
    with erasure.on(view.pipe) as run:
        guided = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
        assert torch.equal(view.sample(PROMPTS, SEEDS, **options), guided)
        assert torch.equal(view.sample(before, SEEDS, **options), guided)
        assert torch.equal(view.sample(view.encode(PROMPTS), SEEDS, **options), guided)
    assert not torch.allclose(guided, plain, atol=1e-2)
    assert run.log.counts == {"prompts": 8, "steps guided": 16}
    with pytest.raises(RuntimeError, match="on purpose"), erasure.on(view):
        view.sample(PROMPTS, SEEDS, **options)
        raise RuntimeError("on purpose")
    view.sample(PROMPTS, SEEDS, **options)
    assert torch.equal(direct(name, PROMPTS, SEEDS, pipe=view.pipe), plain)
    kept = {k for k in clean[0] if not k.startswith("_")}
    assert {k: v for k, v in state(view.pipe)[0].items() if k in kept} == {k: clean[0][k] for k in kept}
    assert state(view.pipe)[1:-2] == clean[1:-2]  # no hook in any module


def test_momentum_starts_anew_in_each_sampling_and_belongs_to_its_sample() -> None:
    pipe = tiny("sd1")
    with safe(pipe, preset="strong", warmup=0).on(pipe):
        both = direct("sd1", PROMPTS, SEEDS, steps=4)
        assert torch.equal(direct("sd1", PROMPTS, SEEDS, steps=4), both)
        alone = direct("sd1", PROMPTS[1:], SEEDS[1:], steps=4)
    torch.testing.assert_close(alone[0], both[1], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("preset", "passes"), [("weak", 2 + 4), ("strong", 4 + 4)])
def test_the_third_pass_is_left_out_where_nothing_needs_it(preset: Any, passes: int) -> None:
    pipe, made = tiny("sd1"), []
    handle = pipe.unet.register_forward_hook(lambda *_: made.append(1))
    with safe(pipe, preset=preset, warmup=2).on(pipe):
        direct("sd1", PROMPTS, SEEDS, steps=4)
    handle.remove()
    assert len(made) == passes


def test_several_pictures_of_a_prompt_and_a_negative_prompt_of_ones_own() -> None:
    pipe = tiny("sd1")
    own = ["a square", "the big star"]
    with safe(pipe, preset="max").on(pipe):
        two = direct("sd1", PROMPTS, [3, 4, 5, 6], num_images_per_prompt=2, negative_prompt=own)
        one = direct("sd1", [PROMPTS[1]], [6], negative_prompt=own[1:])
    torch.testing.assert_close(two[3], one[0], atol=5e-3, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "pixart-alpha", "wan"])
def test_without_guidance_it_warns_and_changes_nothing(name: str) -> None:
    view = PipelineView.of(tiny(name))
    plain = direct(name, PROMPTS, SEEDS, guidance_scale=1.0)
    erasure = safe(view, preset="max")
    with erasure.on(view) as run:
        with pytest.warns(NothingErasedWarning, match="pass a guidance_scale above 1"):
            assert torch.equal(direct(name, PROMPTS, SEEDS, guidance_scale=1.0), plain)
        with pytest.warns(NothingErasedWarning, match="pass a guidance_scale above 1"):
            same = view.sample(view.encode(PROMPTS), SEEDS, steps=2, guidance=1.0, **small(name))
    assert torch.equal(same, plain)
    assert run.log.counts == {"prompts without guidance": 4}


@pytest.mark.parametrize("name", ["flux", "hunyuan-video"])
def test_distilled_guidance_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="has embedded guidance and runs without a negative prompt"):
        safe(tiny(name))
    with pytest.raises(InputError, match="embedded guidance"):
        safe(tiny("sd1")).on(tiny(name))
    assert "encode_prompt" not in vars(tiny(name))


def test_the_options_of_the_call_are_those_of_the_concept() -> None:
    pipe, lengths = tiny("pixart-alpha"), []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _m, _a, kwargs: lengths.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    with safe(pipe, preset="max").on(pipe):
        direct("pixart-alpha", PROMPTS, SEEDS, max_sequence_length=20)
    handle.remove()
    assert lengths == [20] * 4


def test_two_as_one_are_what_they_are_one_after_the_other_each_with_its_own_momentum() -> None:
    pipe = tiny("sd1")
    one, other = safe(pipe, preset="strong", warmup=0), erase(pipe, "star", method="sld", preset="max")
    with one.on(pipe), other.on(pipe):
        wanted = direct("sd1", PROMPTS, SEEDS, steps=4)
    with (one & other).on(pipe):
        assert torch.equal(direct("sd1", PROMPTS, SEEDS, steps=4), wanted)


def test_several_concepts_are_one_text_and_options_take_the_place_of_the_presets() -> None:
    concepts = ["circle", Concept("star", synonyms=["ring"])]
    erasure = erase(tiny("sd1"), concepts, method="sld", preset="strong", **EARLY)
    assert erasure.text == "circle, star, ring"
    assert erasure.config.strength == PRESETS["strong"]._replace(warmup=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "huge"}, "preset='huge': choose one of 'weak', 'medium', 'strong', 'max'"),
        ({"steps": 3}, "has no option 'steps': it has preset, text, scale, warmup, threshold"),
        ({"scale": 0.0}, "scale=0.0: write a number above 0"),
        ({"warmup": -1}, "warmup=-1: write a number at least 0"),
        ({"warmup": 1.5}, "warmup=1.5: write a whole number or None"),
        ({"momentum_scale": -0.1}, "momentum_scale=-0.1: write a number at least 0"),
        ({"momentum_beta": 1.0}, "momentum_beta=1.0: write a number at least 0 and below 1"),
        ({"threshold": float("nan")}, "threshold=nan: write a finite number"),
        ({"scale": "max"}, "scale='max': write a number or None"),
    ],
)
def test_bad_input(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        safe(tiny("sd1"), **options)


def test_words_that_the_pipeline_cannot_read() -> None:
    with pytest.raises(InputError, match="does not know 'zebra'"):
        erase(tiny("wan"), "zebra", method="sld")
