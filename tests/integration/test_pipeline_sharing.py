"""Several pipelines over the same parts: what is on one does not react to the calls of another."""

import copy
import inspect

import pytest
import torch

from efface import InputError
from efface.core.subjects import as_subject
from efface.pipelines import PipelineView
from tests.pipelines import build, df, direct, small, state, tiny

PROMPTS, SEEDS = ["a red circle", "the small star"], [3, 4]


def twin(pipe):
    """Another pipeline over the very same parts, with a scheduler of its own."""
    parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
    return type(pipe)(**parts, requires_safety_checker=False)


def drawn(pipe, **call):
    return direct("sd1", PROMPTS, SEEDS, pipe=pipe, **call)


def test_a_rule_leaves_the_calls_of_another_pipeline_alone():
    pipe = build("sd1")
    other, view, steps = twin(pipe), PipelineView.of(pipe), []
    plain = drawn(other)
    with view.guided(lambda step: steps.append(step.index) or step.cond * 0):  # type: ignore[func-returns-value]
        ruled = drawn(pipe)
        assert steps == [0, 1] and not torch.equal(ruled, plain)
        assert torch.equal(drawn(other), plain)
        # One prompt after a call with two, which used to be refused.
        assert torch.equal(direct("sd1", PROMPTS[:1], SEEDS[:1], pipe=other), direct("sd1", PROMPTS[:1], SEEDS[:1]))
        assert steps == [0, 1]
        assert torch.equal(drawn(pipe), ruled)


def test_a_swap_leaves_the_calls_of_another_pipeline_alone():
    pipe = build("sd1")
    other, view, steps = twin(pipe), PipelineView.of(pipe), []
    plain = drawn(other)
    remove = view.install_swap(lambda index, _, rows: steps.append(index) or rows * 0)  # type: ignore[func-returns-value]
    try:
        assert not torch.equal(drawn(pipe), plain) and steps == [0, 1]
        assert torch.equal(drawn(other), plain) and steps == [0, 1]
    finally:
        remove()


def test_a_pipeline_made_from_another_one_is_not_told_either():
    pipe = build("sd1")
    other = df.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    image, seen = torch.rand(1, 3, 32, 32), []

    def edited():
        generator = torch.Generator().manual_seed(0)
        return other("a star", image=image, generator=generator, num_inference_steps=2, output_type="pt").images

    plain = edited()
    with PipelineView.of(pipe).guided(lambda step: seen.append(step.index)):  # type: ignore[arg-type,return-value]
        drawn(pipe)
        assert torch.equal(edited(), plain)
    assert seen == [0, 1]


def test_who_calls_the_denoiser_himself_gets_its_own_prediction():
    view = PipelineView.of(build("sd1"))
    embedding = view.encode(PROMPTS[0])
    call = view.prepare(embedding, **small("sd1"))
    arguments = call.with_inputs(call.latents, 500, embedding)
    with torch.no_grad():
        plain = view.denoiser(**arguments)[0]
        with view.guided(lambda step: step.cond * 0):
            drawn(view.pipe)
            assert torch.equal(view.denoiser(**arguments)[0], plain)


def test_a_copy_of_a_denoiser_has_its_rule_as_long_as_that_is_on():
    view, seen = PipelineView.of(build("sd1")), []
    plain = drawn(view.pipe)
    with view.guided(lambda step: seen.append(step.index) or step.cond * 0):  # type: ignore[func-returns-value]
        ruled = drawn(view.pipe)
        view.pipe.unet = copy.deepcopy(view.denoiser)
        assert torch.equal(drawn(view.pipe), ruled) and seen == [0, 1, 0, 1]
    assert torch.equal(drawn(view.pipe), plain) and seen == [0, 1, 0, 1]


def test_a_function_of_the_users_own_in_place_of_encode_prompt_is_used():
    pipe = build("sd1")
    own, wanted = pipe.encode_prompt, PipelineView.of(pipe).tokens("a red circle")

    def shouting(prompt=None, *args, **kwargs):
        prompt = prompt if prompt is None else [f"{text} circle" for text in prompt]
        return own(prompt, *args, **kwargs)

    shouting.__signature__ = inspect.signature(own)  # type: ignore[attr-defined]
    vars(pipe)["encode_prompt"] = shouting
    before, view = state(pipe), PipelineView.of(pipe)
    assert view.tokens("a red")["text_encoder"].ids == wanted["text_encoder"].ids
    assert state(pipe) == before
    with view.edited(lambda e: None):  # type: ignore[arg-type,return-value]
        assert vars(pipe)["encode_prompt"] is not shouting
    assert vars(pipe)["encode_prompt"] is shouting


def test_a_pipeline_and_its_view_are_subjects():
    view = PipelineView.of(tiny("sd1"))
    assert as_subject(view).view is view and as_subject(view).thing is tiny("sd1")
    assert as_subject(tiny("sd1")).kind == "pipeline"
    with pytest.raises(InputError, match="nothing that efface erases from"):
        as_subject(df)
