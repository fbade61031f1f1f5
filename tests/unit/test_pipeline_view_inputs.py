"""What the view refuses, and that it says what to write instead."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from efface import InputError
from efface.pipelines import PipelineView, PromptEmbedding
from tests.pipelines import build, df, direct, small, tiny

SIZE = small("sd1")


def sd():
    return PipelineView.of(tiny("sd1"))


def test_importing_the_room_imports_no_heavy_package():
    code = (
        "import sys, efface.diffusion as d, efface.pipelines as p; p.PipelineView, d.Cgce, d.Safree; "
        "print([m for m in ('diffusers', 'transformers', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_pipeline_without_text_says_which_role_is_missing():
    unet = df.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    pipe = df.DDPMPipeline(unet=unet, scheduler=df.DDPMScheduler())
    with pytest.raises(InputError, match=r"DDPMPipeline has no text encoders .*of\(pipe, text_encoders=\['...'\]\)"):
        PipelineView.of(pipe)


def test_a_missing_denoiser_is_named_and_can_be_given():
    pipe = build("wan")
    pipe.register_modules(transformer=None)
    with pytest.raises(InputError, match=r"WanPipeline has no denoiser .*PipelineView.of\(pipe, denoiser='...'\)"):
        PipelineView.of(pipe)
    pipe = build("sd1")
    for given in ("unet", pipe.unet):
        assert PipelineView.of(pipe, denoiser=given).denoiser is pipe.unet
    assert list(PipelineView.of(pipe, tokenizers=["tokenizer"]).tokenizers) == ["tokenizer"]


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        ({"denoiser": "transformer"}, "denoiser='transformer' is no component of StableDiffusionPipeline"),
        ({"denoiser": nn.Linear(1, 1)}, "denoiser=a Linear is no component"),
        ({"unet": "unet"}, "unknown role 'unet': a pipeline has the roles text_encoders"),
    ],
)
def test_roles_that_are_no_roles(roles, text):
    with pytest.raises(InputError, match=text):
        PipelineView.of(tiny("sd1"), **roles)


def test_no_pipeline_at_all():
    with pytest.raises(InputError, match="expected a diffusers pipeline, got Linear"):
        PipelineView.of(nn.Linear(1, 1))
    view = sd()
    assert PipelineView.of(view) is view


def test_a_pipeline_that_does_not_take_embeddings():
    class Closed(type(tiny("sd1"))):
        def __call__(self, prompt):
            return prompt

    with pytest.raises(InputError, match="has no prompt encoding .its call takes no 'prompt_embeds'"):
        PipelineView.of(Closed(**tiny("sd1").components, requires_safety_checker=False))


def test_a_pipeline_that_takes_text_under_other_names():
    class Other(type(tiny("sd1"))):
        def __call__(self, prompt=None, prompt_embeds=None, prompt_embeds_mask=None):
            return prompt

    with pytest.raises(InputError, match="Other takes text as prompt_embeds_mask too, which efface does not know"):
        PipelineView.of(Other(**tiny("sd1").components, requires_safety_checker=False))


def test_prompts_longer_than_the_window_are_refused_unless_allowed():
    long = "red " * 90 + "circle"
    with pytest.raises(InputError, match="is 94 tokens long, text_encoder reads 77: shorten it, or pass truncate=True"):
        sd().encode(long)
    with pytest.raises(InputError, match="94 tokens long"):
        sd().encode("a ring", negative=long)
    mine = sd().sample(long, 3, steps=2, truncate=True, **SIZE)
    assert torch.equal(mine, direct("sd1", [long], [3]))
    assert sd().tokens("red " * 73 + "circle")["text_encoder"].length == 77  # "circle" is two tokens, and two ends
    assert len(sd().encode("red " * 73 + "circle")) == 1
    with pytest.raises(InputError, match="78 tokens"):
        sd().encode("red " * 74 + "circle")


def test_a_window_that_is_passed_is_the_one_that_counts():
    view = PipelineView.of(tiny("pixart-alpha"))
    words = "red " * 30 + "circle"
    assert view.encode(words).sequence.shape[1] == 120
    with pytest.raises(InputError, match="32 tokens long, text_encoder reads 20"):
        view.encode(words, max_sequence_length=20)
    with pytest.raises(InputError, match="32 tokens long, text_encoder reads 20"):
        view.sample(words, 0, max_sequence_length=20, **small("pixart-alpha"))


def test_unknown_words_are_refused_unless_allowed():
    view = PipelineView.of(tiny("flux"))
    with pytest.raises(InputError, match="tokenizer_2 does not know 'zebra' in the prompt 'a red zebra'"):
        view.encode("a red zebra")
    mine = view.sample("a red zebra", 3, steps=2, allow_unknown=True, **small("flux"))
    assert torch.equal(mine, direct("flux", ["a red zebra"], [3]))
    assert len(sd().encode("a red zebra")) == 1  # byte-level


def test_words_that_are_not_in_the_prompt():
    with pytest.raises(InputError, match="'star' is not a word or phrase of the prompt 'a red circle'"):
        sd().token_rows("a red circle", "star")
    assert sd().token_rows("a star and a STAR", "star")["text_encoder"].rows == (2, 5)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda v: v.sample(["a ring"] * 2, [1, 2, 3]), "3 seeds for 2 prompts: give one seed for each prompt"),
        (lambda v: v.sample("a ring", []), "there are no seeds"),
        (lambda v: v.sample([], []), "there are no seeds"),
        (lambda v: v.sample("a ring", 1, batch_size=0), "batch_size must be at least 1"),
        (lambda v: v.sample("a ring", 1, hieght=32), "takes no 'hieght': it takes prompt, height, width"),
        (lambda v: v.sample("a ring", [1, 2], negative=["x"]), "1 negative prompts for 2 samples"),
        (lambda v: v.sample(v.encode("a ring"), 1, negative="a"), "an embedding has its own"),
        (lambda v: v.encode([]), "there are no prompts"),
        (lambda v: v.encode(["a", 3]), "a prompt is a string, not int"),
        (lambda v: v.encode(["a", "the"], negative=["x"]), "1 negative prompts for 2 prompts"),
        (lambda v: v.encode("a", windows=3), "encode_prompt has no option 'windows'"),
        (lambda v: v.sample(PromptEmbedding(torch.zeros(1, 77, 8)), 1), "sequence is 8 wide, .* takes 32"),
        (
            lambda v: v.sample(PipelineView.of(tiny("sdxl")).encode("a"), 1),
            "sequence is 56 wide|has no tensor pooled",
        ),
        (lambda v: v.denoise(torch.zeros(3, 4, 8, 8), 1, v.encode(["a", "the"])), "3 latents for 2 prompts"),
        (lambda v: v.key_value_inputs(v.encode("a"), latents=torch.zeros(1, 4, 8, 8)), "pass t="),
        (lambda v: v.sample("a ring", 1, edit=lambda e: e.replace(sequence=e.sequence[:, :3])), "keep its shape"),
    ],
)
def test_bad_calls(call, text):
    with pytest.raises(InputError, match=text):
        call(sd())


def test_an_edit_must_return_an_embedding():
    with (
        pytest.raises(InputError, match="must return a PromptEmbedding or None, not Tensor"),
        sd().edited(
            lambda e: e.sequence  # type: ignore[arg-type,return-value]
        ),
    ):
        sd().encode("a ring")
    assert "encode_prompt" not in vars(tiny("sd1"))


def test_a_rule_must_keep_the_shape():
    with pytest.raises(InputError, match="a rule must keep the shape"), sd().guided(lambda step: step.cond[:, :1]):
        sd().sample("a ring", 1, steps=1, **SIZE)


def test_a_missing_pooled_vector():
    view = PipelineView.of(tiny("sdxl"))
    bare = view.encode("a ring").replace(pooled=None)
    with pytest.raises(InputError, match="needs a tensor pooled"):
        view.sample(bare, 1)
