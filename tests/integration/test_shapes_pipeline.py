"""The shipped pipeline: plain diffusers reads it, seeds reproduce, images show what prompts ask for."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from efface._errors import FormatError, InputError
from efface_worlds import shapes
from efface_worlds.shapes.acceptance import presence_auroc, subtraction
from efface_worlds.shapes.concepts import FACTORS
from efface_worlds.shapes.shipped import GOLD, WEIGHTS
from efface_worlds.shapes.vocabulary import LENGTH, build_tokenizer

PROMPTS = ("a red circle on a white background", "a blue striped star", "")


@pytest.fixture(scope="module")
def pipeline():
    return shapes.load_shapes_pipeline()


@pytest.fixture(scope="module")
def judge():
    return shapes.load_judge(1)


def test_plain_diffusers_reads_the_folder_and_draws_the_same_bits(pipeline):
    plain: Any = importlib.import_module("diffusers").StableDiffusionPipeline.from_pretrained(
        WEIGHTS / "pipeline", local_files_only=True
    )
    plain.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(7 + i) for i in range(2)]
    images = plain(
        list(PROMPTS[:2]), num_inference_steps=2, guidance_scale=3.0, output_type="pt", generator=noise
    ).images
    assert torch.equal(images, shapes.generate(pipeline, PROMPTS[:2], seed=7, steps=2))
    assert {m.dtype for m in (plain.unet, plain.vae, plain.text_encoder)} == {torch.float32}
    assert plain.vae.config.latent_channels == plain.unet.config.in_channels == 4


@pytest.mark.slow  # a new process imports everything again
def test_loading_says_nothing():
    code = "from efface_worlds import shapes; shapes.load_shapes_pipeline()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_an_image_depends_on_its_own_seed_only(pipeline):
    three = shapes.generate(pipeline, PROMPTS, seed=5, steps=2)
    assert torch.equal(three, shapes.generate(pipeline, PROMPTS, seed=5, steps=2))
    alone = shapes.generate(pipeline, PROMPTS[1:2], seed=6, steps=2)
    torch.testing.assert_close(alone[0], three[1], rtol=0, atol=1e-4)
    assert not torch.allclose(shapes.generate(pipeline, PROMPTS[:1], seed=6, steps=2)[0], three[0], atol=0.01)


def test_prompts_and_their_embeddings_draw_the_same(pipeline):
    embedded = shapes.embed_prompts(pipeline.text_encoder, pipeline.tokenizer, PROMPTS)
    assert embedded.shape == (3, LENGTH, 128)
    drawn = (shapes.generate(pipeline, given, seed=1, steps=2) for given in (PROMPTS, embedded))
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)


def test_images_agree_with_prompts(pipeline, judge):
    prompts = shapes.prompts_for(n=40, seed=21)
    agrees = judge.judge(shapes.generate(pipeline, prompts.texts, seed=3, steps=12)).agrees(prompts.scenes)
    for factor in ("object", "colour", "style", "background"):
        # At .9 a sample of 40 falls below .75 twice in a thousand.
        assert agrees[factor].float().mean() >= 0.75, factor


@pytest.mark.parametrize("which", [1, 2])
def test_of_what_the_pipeline_draws_the_judges_can_say(pipeline, which):
    drawn = shapes.generate(pipeline, shapes.prompts_for(n=40, seed=21).texts, seed=3, steps=12)
    assert (~shapes.load_judge(which).judge(drawn).known).float().mean() <= 0.15


def test_text_encoder_is_accepted(pipeline):
    found = {f: presence_auroc(pipeline.text_encoder, pipeline.tokenizer, factor=f, n=400) for f in FACTORS}
    every = [value for values in found.values() for value in values.values()]
    assert sum(every) / len(every) >= 0.95
    assert min(every) >= 0.90
    for factor in ("object", "colour", "style"):
        for value in (c for c in FACTORS[factor] if c.family):
            near, far = shapes.nearness(pipeline.text_encoder, pipeline.tokenizer, value.name)
            assert near > far, value.name


def test_literal_subtraction_removes_a_concept(pipeline, judge):
    before, after = subtraction(pipeline, judge, "square", 12, seed=2, steps=12)
    assert before["object"].float().mean() >= 0.7
    assert after["object"].float().mean() <= 0.3 * before["object"].float().mean()
    assert after["colour"].float().mean() >= before["colour"].float().mean() - 0.2


def test_scores_prefer_the_right_caption(judge):
    world = shapes.make_shapes(100, seed=9, split="test", two_objects=0.0)
    contrast = shapes.load_contrast()
    own, other = (
        shapes.text_image_score(world.images, texts, contrast=contrast, judge=judge)
        for texts in (world.captions, [*world.captions[1:], world.captions[0]])
    )
    assert own.low > other.high
    with pytest.raises(InputError, match="write one each"):
        shapes.text_image_score(world.images, world.captions[:3], contrast=contrast, judge=judge)


def test_shipped_tokenizer_is_the_one_that_is_built(pipeline):
    texts = ["a scarlet circle, hello", "the background is sky", ""]
    assert pipeline.tokenizer(texts).input_ids == build_tokenizer()(texts).input_ids


def test_every_word_is_one_token_and_other_words_are_not_lost(pipeline):
    tokenizer = pipeline.tokenizer
    for values in FACTORS.values():
        for word in (w for c in values for w in (c.name, *c.synonyms, *c.unread)):
            assert len(tokenizer.tokenize(word)) == 1, word
    assert "".join(tokenizer.tokenize("zebra")).removesuffix("</w>") == "zebra"


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "vae/config.json"]
)
def test_a_truncated_or_missing_file_is_named_with_its_remedy(tmp_path, name):
    folder = tmp_path / "pipeline"
    shutil.copytree(WEIGHTS / "pipeline", folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=rf"{name} is damaged.*reinstall efface"):
        shapes.load_shapes_pipeline(folder=folder)
    (folder / name).unlink()
    with pytest.raises(FormatError, match=rf"has no {name}: reinstall efface"):
        shapes.load_shapes_pipeline(folder=folder)


def test_an_unknown_variant_says_what_there_is(tmp_path):
    with pytest.raises(InputError, match="here are 'base'.*training gold:NAME"):
        shapes.load_shapes_pipeline("without-cat", folder=tmp_path)


def test_no_prompts_is_refused(pipeline):
    with pytest.raises(InputError, match="at least one"):
        shapes.generate(pipeline, [])


def test_gold_models_share_everything_but_the_denoiser_and_lack_their_concept(pipeline, judge):
    variants = shapes.shapes_variants()
    assert variants[0] == "base"
    for variant in variants[1:]:
        gold = shapes.load_shapes_pipeline(variant)
        assert gold.unet.config.block_out_channels == pipeline.unet.config.block_out_channels
        assert (GOLD / variant / "diffusion_pytorch_model.safetensors").stat().st_size <= 8e6
        if variant.startswith("without-"):
            name = variant.removeprefix("without-")
            images = shapes.generate(gold, shapes.prompts_for(name, 12, seed=3).texts, seed=2, steps=12)
            assert (judge(images, name) == 1).float().mean() <= 0.25, variant
