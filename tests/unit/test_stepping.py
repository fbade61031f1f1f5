from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines import PipelineView
from efface.pipelines.stepping import SchedulerStep
from tests.pipelines import df, small, state, tiny

NAMES = ("sd1", "sd2", "sdxl", "sd3")


def view_of(name: str) -> PipelineView:
    return PipelineView.of(tiny(name))


def drawn(view: PipelineView, name: str, prompt: str = "a red circle", **more: Any) -> Tensor:
    return view.sample(prompt, [0], steps=3, **small(name), **more)


@pytest.mark.parametrize("name", NAMES)
def test_watching_changes_nothing_and_leaves_nothing(name: str) -> None:
    view = view_of(name)
    plain = drawn(view, name)
    before, seen = state(view.pipe), []
    with view.stepped(lambda step: seen.append((step.index, step.count))):
        assert torch.equal(drawn(view, name), plain)
    assert seen == [(0, 3), (1, 3), (2, 3)] and state(view.pipe) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_way_that_is_led_along_another_ends_where_that_one_does(name: str) -> None:
    view, way = view_of(name), []

    def keep(step: SchedulerStep) -> None:
        way.append(step.taken().clone())

    with view.stepped(keep):
        there = drawn(view, name)
    with view.stepped(lambda step: way[step.index]):
        assert torch.equal(drawn(view, name, "a big blue star"), there)


@pytest.mark.parametrize("name", NAMES)
def test_the_guided_prediction_at_a_step_is_what_the_scheduler_is_given(name: str) -> None:
    view, way = view_of(name), []
    with view.stepped(lambda step: way.append((step.latents.clone(), step.prediction.clone()))):
        drawn(view, name)
    embedding, before = view.encode("a red circle"), state(view.pipe)
    for at, (latents, prediction) in enumerate(way):
        again = view.guided_prediction(latents, at, embedding, steps=3, **small(name))
        assert torch.equal(again, prediction)
    assert state(view.pipe) == before


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_a_word_through_guidance(name: str) -> None:
    view = view_of(name)
    carrier = view.words.carrier(["a red circle"])
    vectors = {each: view.words.table(each)[:1].detach().clone().requires_grad_() for each in view.words.tokenizers}
    with view.words.given(carrier, vectors):
        embedding = view.encode(f"a {carrier}", grad=True)
    latents = view.prepare(view.encode("a").replace(negative=None), **small(name)).latents
    view.guided_prediction(latents, 1, embedding, steps=3, **small(name)).sum().backward()
    assert all(v.grad is not None and float(v.grad.abs().sum()) > 0 for v in vectors.values())
    assert torch.equal(view.encode(f"a {carrier}").sequence, view.encode(f"a {carrier}").sequence)


def test_a_word_given_its_own_vector_is_that_word() -> None:
    view = view_of("sd1")
    red = view.words.token("text_encoder", "red")
    with view.words.given("*", {"text_encoder": view.words.table("text_encoder")[[red]]}):
        put = view.encode("a * star")
    assert torch.allclose(put.sequence, view.encode("a red star").sequence)
    both = view.words.table("text_encoder")[[red, view.words.token("text_encoder", "blue")]]
    with view.words.given("*", {"text_encoder": both}):
        put = view.encode("a * star and * ring")
    assert torch.allclose(put.sequence, view.encode("a red star and blue ring").sequence)


def test_whole_words_are_found_again_in_prompts() -> None:
    words = view_of("sd1").words
    whole = words.whole("text_encoder")
    assert "star" in whole.values() and "circle" not in whole.values()  # the latter is two tokens
    assert all(words.ids("text_encoder", f"a {word} a")[1] == i for i, word in whole.items())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_noise_of_a_prediction_and_back(kind: Any) -> None:
    scheduler = df.DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(5)
    latents, prediction = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    t = scheduler.timesteps[1]
    step = SchedulerStep(1, 5, t, latents, prediction, kind, scheduler, lambda p: p)
    out = scheduler.step(prediction, t, latents)
    clean, noise = step.split()
    assert torch.allclose(clean, out.pred_original_sample, atol=1e-4)
    assert torch.allclose(step.predicting(noise), prediction, atol=1e-4)
    (a, b), (a_next, b_next) = step.amounts, step.next_amounts
    assert torch.allclose(a * clean + b * noise, latents, atol=1e-4)
    assert torch.allclose(a_next * clean + b_next * noise, out.prev_sample, atol=1e-4)


def test_schedulers_of_another_kind_are_refused() -> None:
    view = view_of("sdxl")  # Euler's latents are larger
    with pytest.raises(InputError, match="DDIMScheduler"), view.stepped(lambda step: step.split()[0]):
        drawn(view, "sdxl")
    assert "step" not in vars(view.scheduler)


def test_steps_that_there_are_not() -> None:
    view = view_of("sd1")
    latents = torch.zeros(1, 4, 16, 16)
    with pytest.raises(InputError, match="from 0 to 2"):
        view.guided_prediction(latents, 3, view.encode("a"), steps=3)
    with pytest.raises(InputError, match="keep the shape"), view.stepped(lambda step: step.latents[:, :1]):
        drawn(view, "sd1")
