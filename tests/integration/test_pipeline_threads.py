"""Several threads on one pipeline: each gets what it would get alone, and nothing is left in the pipeline."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import efface
from efface import PipelineView
from efface._errors import NotReachedWarning
from tests.pipelines import build, direct, small, state

PROMPTS = ["a red circle", "the small star", "a big blue ring", "a photo of a square"]


@pytest.fixture(autouse=True)
def restless():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(jobs: list[Callable[[], Any]]) -> list[Any]:
    """What each job gives, all run at once."""
    found: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        start.wait()
        try:
            found[i] = jobs[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for item in found:
        if isinstance(item, BaseException):
            raise item
    return found


def used():
    """A view of a pipeline that was called before."""
    view = PipelineView.of(build("sd1"))
    direct("sd1", ["a ring"], [0], pipe=view.pipe)
    return view


def surgery(view):
    return efface.erase(view, "circle", method="semantic-surgery", preset="published", threshold=-2.0)


def test_the_pipeline_encodes_while_an_erasure_tokenizes():
    view = used()
    before, erasure = state(view.pipe), surgery(view)
    with erasure.on(view.pipe):
        wanted = {prompt: view.pipe.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in PROMPTS}

        def encode(prompt):
            return [view.pipe.encode_prompt(prompt, "cpu", 1, False)[0] for _ in range(5)]

        for prompt, found in zip(PROMPTS, together([lambda p=p: encode(p) for p in PROMPTS]), strict=True):
            assert all(torch.equal(each, wanted[prompt]) for each in found)
    assert state(view.pipe) == before


def test_views_of_one_pipeline_tokenize_prepare_and_encode_at_once():
    view = used()
    before = state(view.pipe)
    wanted = view.encode(PROMPTS[0]), view.tokens(PROMPTS[0])
    latents = view.prepare(wanted[0], seeds=[7], **small("sd1")).latents

    def look():
        own = PipelineView.of(view.pipe)
        for _ in range(3):
            encoded = own.encode(PROMPTS[0])
            assert torch.equal(encoded.sequence, wanted[0].sequence) and own.tokens(PROMPTS[0]) == wanted[1]
            assert torch.equal(own.prepare(encoded, seeds=[7], **small("sd1")).latents, latents)

    together([look] * 4)
    assert state(view.pipe) == before


def test_samples_drawn_at_once_are_those_drawn_one_after_another():
    view, options = used(), {"steps": 2, **small("sd1")}
    before = state(view.pipe)
    with view.edited(lambda e: e.replace(sequence=e.sequence * 1.5)), view.guided(lambda step: step.cond * 0.9):
        wanted = [view.sample(prompt, 3, **options) for prompt in PROMPTS]
        found = together([lambda p=p: view.sample(p, 3, **options) for p in PROMPTS])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert state(view.pipe) == before


def test_layers_are_found_while_another_thread_samples():
    view, options = used(), {"steps": 2, **small("sd1")}
    wanted, before = view.sample(PROMPTS[0], 3, **options), state(view.pipe)
    encoded = view.encode(PROMPTS[1]).replace(negative=None)
    rows = PipelineView.of(view.pipe).key_value_inputs(encoded)

    def look():
        found = PipelineView.of(view.pipe).key_value_inputs(encoded)
        assert all(torch.equal(found[path], value) for path, value in rows.items())

    found = together([lambda: view.sample(PROMPTS[0], 3, **options), look, look])
    assert torch.equal(found[0], wanted)
    assert state(view.pipe) == before


def test_an_erasure_that_is_put_on_while_another_thread_samples_stays_on():
    view, options = used(), {"steps": 2, **small("sd1")}
    ready, installed, done = threading.Event(), threading.Event(), []

    def wait(pipe, index, timestep, kwargs):
        ready.set()
        assert installed.wait(30)  # who puts it on need not wait for the end of the samples
        return kwargs

    def install():
        assert ready.wait(30)
        done.append(view.install_edit(lambda e: e.replace(sequence=e.sequence * 2)))
        installed.set()

    plain = view.encode(PROMPTS[0]).sequence
    with pytest.warns(NotReachedWarning, match="they were encoded before it was put on"):
        together([lambda: view.sample(PROMPTS[0], 3, callback_on_step_end=wait, **options), install])
    assert torch.equal(view.encode(PROMPTS[0]).sequence, plain * 2)
    done[0]()
    assert "encode_prompt" not in vars(view.pipe)


def test_the_prompts_of_a_rule_are_those_of_its_thread():
    """Both threads are between encoding and the first step at once."""
    view = used()
    meet, told = threading.Barrier(2), {}

    def keep(step):
        told.setdefault(threading.get_ident(), set()).add(step.embedding.prompts)

    def draw(prompt):
        pipe = view.pipe
        told[threading.get_ident()] = set()
        pipe(prompt, num_inference_steps=1, output_type="latent", **small("sd1"))
        return told[threading.get_ident()]

    def wait(*_):
        meet.wait(30)

    hook = view.denoiser.register_forward_pre_hook(wait)
    try:
        with view.guided(keep):
            found = together([lambda p=p: draw(p) for p in PROMPTS[:2]])
    finally:
        hook.remove()
    assert found == [{(PROMPTS[0],)}, {(PROMPTS[1],)}]
