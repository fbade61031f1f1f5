"""Pipelines as users have them: half precision, parts left out, two denoisers, other tasks, stochastic samplers."""

import copy
from typing import Any

import pytest
import torch

from efface import InputError, erase
from efface._errors import NotReachedWarning
from efface.pipelines import PipelineView
from tests.pipelines import build, df, direct, small, tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux", "hunyuan-video"])
def test_bfloat16(name):
    pipe = build(name).to(torch.bfloat16)
    view = PipelineView.of(pipe)
    mine = view.sample("a red circle", 3, steps=2, **small(name))
    assert mine.dtype == torch.float32
    assert torch.equal(mine, direct(name, ["a red circle"], [3], pipe=pipe).float())
    assert [x.path for x in view.key_value_layers()] == [x.path for x in PipelineView.of(tiny(name)).key_value_layers()]
    assert [e.path for e in view.context_embedders()] == [
        e.path for e in PipelineView.of(tiny(name)).context_embedders()
    ]


def test_sd3_without_its_third_text_encoder():
    pipe = build("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    view = PipelineView.of(pipe)
    assert list(view.tokens("a red circle")) == ["text_encoder", "text_encoder_2"]
    wanted = direct("sd3", ["a red circle"], [3], pipe=pipe)
    assert torch.equal(view.sample("a red circle", 3, steps=2, **small("sd3")), wanted)


def test_wan_with_two_denoisers():
    one = build("wan")
    parts = {**one.components, "transformer_2": copy.deepcopy(one.transformer)}
    pipe = df.WanPipeline(**parts, boundary_ratio=0.8)
    pipe.set_progress_bar_config(disable=True)
    view = PipelineView.of(pipe)
    layers = view.key_value_layers()
    assert [x.denoiser for x in layers] == ["transformer"] * 4 + ["transformer_2"] * 4
    assert {id(x.module) for x in layers[4:]} <= {id(m) for m in pipe.transformer_2.modules()}
    mine = view.sample("a red circle", 3, steps=3, **small("wan"))
    assert torch.equal(mine, direct("wan", ["a red circle"], [3], steps=3, pipe=pipe))
    with torch.no_grad():
        pipe.transformer_2.proj_out.bias += 1
        call = view.prepare(view.encode("a red circle"), **small("wan"))
        both = [
            view.denoise(call.latents, 100, view.encode("a red circle"), denoiser=name, **small("wan"))
            for name in view.components.denoisers
        ]
    torch.testing.assert_close(both[1] - both[0], torch.ones_like(both[0]))


@pytest.mark.parametrize("task", ["Inpaint", "Img2Img"])
def test_other_tasks_of_stable_diffusion(task):
    given = {"image": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    probe = {"image": torch.zeros(1, 3, 64, 64)}
    if task == "Inpaint":
        given["mask_image"] = torch.zeros(1, 1, 32, 32)
        given["mask_image"][..., 16:] = 1
        probe["mask_image"] = torch.zeros(1, 1, 64, 64)
    kind = getattr(df, f"StableDiffusion{task}Pipeline")
    pipe = kind(**tiny("sd1").components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    view = PipelineView.of(pipe, probe=probe)

    def theirs(**more):
        generator = torch.Generator().manual_seed(3)
        return pipe(
            "a red circle", num_inference_steps=4, generator=generator, output_type="pt", **given, **more
        ).images

    assert torch.equal(view.sample("a red circle", 3, steps=4, **given), theirs())
    assert len(view.key_value_layers()) == 8
    wanted = theirs(negative_prompt="circle")
    with erase(view, "circle", method="negative-prompt").on(pipe):
        assert torch.equal(theirs(), wanted)
    assert not torch.equal(theirs(), wanted)


@pytest.mark.parametrize(
    "scheduler", ["EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"]
)
def test_other_schedulers_and_a_latent_that_they_scale(scheduler):
    pipe = build("sd1")
    pipe.scheduler = getattr(df, scheduler).from_config(pipe.scheduler.config)
    view = PipelineView.of(pipe)
    plain = view.sample("a red circle", 3, steps=4, **small("sd1"))
    assert torch.equal(plain, direct("sd1", ["a red circle"], [3], steps=4, pipe=pipe))
    assert torch.equal(view.sample("a red circle", 3, steps=4, **small("sd1")), plain)
    embedding = view.encode("a red circle")
    call = view.prepare(embedding, seeds=[3], steps=4, **small("sd1"))
    noise = torch.randn(call.latents.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(call.latents, noise * pipe.scheduler.init_noise_sigma)
    assert len(call.timesteps) == 4


@pytest.mark.parametrize("kind", ["ControlNet", "Adapter"])
def test_another_pass_has_the_residuals_of_a_controlnet_or_an_adapter(kind):
    parts, given = tiny("sd1").components, {"image": torch.rand(1, 3, 32, 32)}
    torch.manual_seed(0)
    if kind == "ControlNet":
        given_by = df.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(16, 32))
        for parameter in given_by.controlnet_down_blocks.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        pipe = df.StableDiffusionControlNetPipeline(**parts, controlnet=given_by, requires_safety_checker=False)
    else:
        channels = list(parts["unet"].config.block_out_channels)
        given_by = df.T2IAdapter(in_channels=3, channels=channels, num_res_blocks=1, downscale_factor=2)
        blocks = {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        unet = type(parts["unet"]).from_config({**parts["unet"].config, **blocks}).eval()
        parts = {name: part for name, part in parts.items() if name != "image_encoder"} | {"unet": unet}
        pipe = df.StableDiffusionAdapterPipeline(**parts, adapter=given_by, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    view, gaps = PipelineView.of(pipe, probe={"image": torch.zeros(1, 3, 64, 64)}), []

    def rule(step):
        again = [step.predict(step.embedding) for _ in range(2)]
        gaps.extend(float((each - step.cond).abs().max()) for each in again)

    def theirs():
        generator = torch.Generator().manual_seed(3)
        call = {"num_inference_steps": 2, "generator": generator, "output_type": "latent", **given}
        return pipe("a red circle", **call).images

    plain = theirs()
    with view.guided(rule):
        assert torch.equal(theirs(), plain)
    assert len(gaps) == 4 and max(gaps) < 1e-5


@pytest.mark.parametrize("scale", [5.0, 1.0], ids=["guided", "unguided"])
def test_perturbed_attention_guidance_has_a_branch_of_its_own(scale):
    pipe = df.AutoPipelineForText2Image.from_pipe(build("sd1"), enable_pag=True, pag_applied_layers=["mid", "up"])
    pipe.set_progress_bar_config(disable=True)
    view, gaps = PipelineView.of(pipe), []
    call = {"pag_scale": 2.0, "guidance_scale": scale, "num_inference_steps": 2, "output_type": "latent"}

    def theirs():
        return pipe("a red circle", generator=torch.Generator().manual_seed(3), **small("sd1"), **call).images

    def rule(step):
        gaps.append(float((step.predict(step.embedding) - step.cond).abs().max()))
        assert (step.uncond is None) == (scale == 1.0)

    plain = theirs()
    with view.guided(rule):
        assert torch.equal(theirs(), plain)
    assert len(gaps) == 2 and max(gaps) < 1e-5
    with view.guided(lambda step: step.cond + 0.5):
        ruled = theirs()
    # Guidance takes the difference of the two branches for the prompt, which both have the rule.
    hook = pipe.unet.register_forward_hook(lambda _m, _a, out: (torch.cat([*_off(out[0], scale)]),))
    torch.testing.assert_close(theirs(), ruled)
    hook.remove()
    remove = view.install_swap(lambda _index, _embedding, rows: rows * 0)
    assert not torch.equal(theirs(), plain)
    remove()
    assert torch.equal(theirs(), plain)


def _off(out, scale):
    """The prediction as a rule of `cond + 0.5` gives it."""
    parts = out.chunk(3 if scale > 1 else 2)
    return [*parts[:-2], parts[-2] + 0.5, parts[-1] + 0.5]


def test_a_picture_in_the_prompt_is_told_by_edits_of_text():
    pipe = build("sd1")
    names = ("ImageProjection", "MultiIPAdapterImageProjection")
    one, several = (getattr(df.models.embeddings, name) for name in names)
    processors = df.models.attention_processor
    torch.manual_seed(0)
    pipe.unet.set_attn_processor(
        {
            name: processors.IPAdapterAttnProcessor2_0(layer.to_q.out_features, 32, num_tokens=(4,))
            if (layer := pipe.unet.get_submodule(name.removesuffix(".processor"))).to_k.in_features == 32
            and "attn2" in name
            else processors.AttnProcessor2_0()
            for name in pipe.unet.attn_processors
        }
    )
    pipe.unet.encoder_hid_proj = several([one(16, 32, 4)])
    pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"
    call = {**small("sd1"), "num_inference_steps": 1, "ip_adapter_image_embeds": [torch.randn(2, 1, 16)]}
    view, gaps = PipelineView.of(pipe), []
    with view.guided(lambda step: gaps.append(float((step.predict(step.embedding) - step.cond).abs().max()))):
        pipe("a red circle", output_type="latent", **call)
    assert gaps and max(gaps) < 1e-5
    told = pytest.warns(NotReachedWarning, match=r"a picture is part of the prompt \(IP-Adapter\)")
    with view.edited(lambda e: e.replace(sequence=e.sequence * 2)), told:
        pipe("a red circle", output_type="latent", **call)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_texts_for_one_text_encoder_alone(name):
    pipe, seen = tiny(name), []
    view = PipelineView.of(pipe)
    true = {"true_cfg_scale": 2.0} if name == "flux" else {}
    more = {"prompt_2": "a blue star", "negative_prompt_2": "small", **true}
    with view.edited(seen.append):
        theirs = direct(name, ["a red circle"], [3], pipe=pipe, negative_prompt="big", **more)
    assert torch.equal(view.sample("a red circle", 3, steps=2, negative="big", **more, **small(name)), theirs)
    apart = {"text_encoder_2": ("a blue star",)}
    assert seen[0].prompts == ("a red circle",) and seen[0].texts == apart
    negative = seen[1] if name == "flux" else seen[0].negative
    assert negative.prompts == ("big",) and negative.texts == {"text_encoder_2": ("small",)}
    two = view.encode(["a red circle", "a ring"], prompt_2=["a blue star", "a star"])
    assert two[1].texts_of("text_encoder_2") == ("a star",) and two[1].texts_of("text_encoder") == ("a ring",)
    torch.testing.assert_close(two[:1].sequence, view.encode("a red circle", prompt_2="a blue star").sequence)
    with pytest.raises(InputError, match="1 texts in prompt_2 for 2 prompts"):
        view.encode(["a red circle", "a ring"], prompt_2=["a blue star"])


def test_the_negative_prompt_goes_behind_each_of_the_users_own():
    pipe, erasure = tiny("sdxl"), erase(tiny("sdxl"), "circle", method="negative-prompt")
    with erasure.on(pipe):
        mine = direct("sdxl", ["a star"], [3], pipe=pipe, negative_prompt="big", negative_prompt_2="small")
    own: dict[str, Any] = {"negative_prompt": "big, circle", "negative_prompt_2": "small, circle"}
    assert torch.equal(mine, direct("sdxl", ["a star"], [3], pipe=pipe, **own))


def test_a_view_knows_the_scheduler_that_its_pipeline_has_now():
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    plain = view.sample("a red circle", 3, steps=2, **small("sd1"))
    pipe.scheduler = df.EulerDiscreteScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    assert view.scheduler is pipe.scheduler and view.prediction_type == "v_prediction"
    other = view.sample("a red circle", 3, steps=2, **small("sd1"))
    assert pipe.scheduler.num_inference_steps is None and not torch.equal(other, plain)
    fresh = PipelineView.of(pipe)
    call, same = (v.prepare(v.encode("a red circle"), **small("sd1")) for v in (view, fresh))
    assert torch.equal(call.latents, same.latents) and torch.equal(call.timesteps, same.timesteps)
