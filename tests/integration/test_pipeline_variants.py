"""Pipelines as users have them: half precision, parts left out, two denoisers, other tasks, stochastic samplers."""

import copy

import pytest
import torch

from efface import erase
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
