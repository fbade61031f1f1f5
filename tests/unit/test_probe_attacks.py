from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from efface.audit.pipelines.probes import completion, inpainting, inversion, latent_classifier, noise, steering
from efface.audit.pipelines.probes.registry import Suite, probes
from efface.audit.pipelines.probes.running import check_budget
from efface.audit.pipelines.probes.selecting import best_of
from efface.audit.pipelines.probes.subject import NotApplicableError
from efface.audit.pipelines.probes.trajectory import changed, recorded, step_after
from efface.core.concept import Concept
from efface.pipelines.stepping import SchedulerStep
from tests.attacked import STEPS, case, other_pipe, subject
from tests.pipelines import df, small

PROMPTS, SEEDS = ["a red circle", "a big blue circle", "a circle", "a small circle"], [0, 1, 2, 3]


def test_completion_from_the_start_is_plain_sampling_and_from_the_end_the_base() -> None:
    asked, other = case(), subject(other_pipe())
    with asked.base.on() as view:
        pictures, way = recorded(view, asked, PROMPTS, SEEDS, range(STEPS + 1))
        assert torch.equal(pictures, asked.sample(view, PROMPTS, SEEDS))
    with other.on() as view:
        own = asked.sample(view, PROMPTS, SEEDS)
        ends = [completion.completed(view, asked, PROMPTS, SEEDS, way, k) for k in range(STEPS + 1)]
    assert torch.equal(ends[0], own) and torch.equal(ends[-1], pictures)
    distances = [float((end - pictures).square().mean()) for end in ends]
    assert distances[0] > distances[-1] and len({round(d, 9) for d in distances}) == STEPS + 1


def test_completion_rows() -> None:
    asked = case()
    rows = completion.completion(subject(other_pipe()), asked, images=5, hand_over=(0.25, 0.75), unprompted=(0.5,))
    assert [(row.name, row.role) for row in rows] == [
        (f"from step 1 of {STEPS}", "search"),
        (f"from step 3 of {STEPS}", "search"),
        (f"from step 2 of {STEPS}, empty prompt", "unprompted"),
    ]
    assert asked.judge.shown == 15 == sum(row.spent["samples"] for row in rows)  # type: ignore[attr-defined]


def test_completion_needs_the_same_steps() -> None:
    pipe = other_pipe()
    pipe.scheduler = df.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(NotApplicableError, match="same timesteps"):
        completion.completion(subject(pipe), case(), images=2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_wider_step_at_1_and_1_is_the_librarys_and_at_0_plain(kind: str, clip: bool) -> None:
    scheduler = df.DDIMScheduler(prediction_type=kind, clip_sample=clip, beta_schedule="scaled_linear")
    scheduler.set_timesteps(10)
    source = torch.Generator().manual_seed(0)
    latents, prediction, z = (torch.randn(2, 4, 8, 8, generator=source) for _ in range(3))
    for at, t in enumerate(scheduler.timesteps):
        step = SchedulerStep(at, 10, t, latents, prediction, kind, scheduler, lambda p: p)  # type: ignore[arg-type]
        for eta in (0.0, 0.5, 1.0):
            library = scheduler.step(prediction, t, latents, eta=eta, variance_noise=z).prev_sample
            assert torch.allclose(noise.wider_step(step, prediction, eta, 1.0, z), library, atol=1e-4)
        wide = noise.wider_step(step, prediction, 1.85, 1.04, z)
        assert bool(wide.isfinite().all()) and (at == 9 or not torch.allclose(wide, library, atol=1e-2))


def test_the_noise_probe_scores_all_that_it_draws_and_nothing_is_drawn_twice() -> None:
    asked = case()
    rows = noise.noise(subject(), asked, items=3, etas=(0.0, 1.0), variances=(1.0, 1.04))
    assert [row.role for row in rows] == ["search", "unprompted", "control"]
    assert asked.judge.shown == 3 * 3 * 4 == asked.selector.shown  # type: ignore[attr-defined]
    assert all(row.draws is not None and row.draws.shape == (3, 4) for row in rows)


def test_without_noise_the_draws_are_alike_and_with_it_they_are_not() -> None:
    asked = case()
    with asked.base.on() as view:
        plain = asked.sample(view, PROMPTS, SEEDS)
        still = changed(view, asked, PROMPTS, SEEDS, noise.Widening(asked, 0.0, 1.0, 5))
        wide = [
            changed(view, asked, PROMPTS, SEEDS, noise.Widening(asked, 1.0, v, d))
            for v, d in ((1, 0), (1, 1), (1.04, 0))
        ]
        again = changed(view, asked, PROMPTS, SEEDS, noise.Widening(asked, 1.0, 1, 0))
    assert torch.allclose(still, plain, atol=1e-5) and torch.equal(again, wide[0])
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in ((wide[0], wide[1]), (wide[0], wide[2])))


def test_best_of_n_of_a_judge_that_throws_coins() -> None:
    source, p, n = torch.Generator().manual_seed(0), 0.1, 8

    def coin(images: Tensor, _name: str) -> Tensor:
        return images[:, 0, 0, 0] < p

    asked = case(judge=coin, selector=coin)
    draws = torch.rand(4000, n, 3, 2, 2, generator=source)
    found = best_of("coins", "search", draws, ("",) * 4000, asked)
    assert float(found.values.mean()) == pytest.approx(1 - (1 - p) ** n, abs=0.03)
    assert found.mean_of_draws == pytest.approx(p, abs=0.01)


def test_what_is_outside_of_the_box_is_held() -> None:
    asked, source = case(), torch.Generator().manual_seed(3)
    clean = torch.randn(2, 4, 16, 16, generator=source)
    with asked.base.on() as view, view.stepped(lambda step: change(step, slice(0, 2))):
        change = inpainting.filling(asked, clean, 0.5)
        latents = view.sample(PROMPTS[:2], [0, 1], steps=3, latent=True, **small("sd1"))
    rows, columns = inpainting.box_of(clean, 0.5)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[rows, columns] = True
    assert torch.allclose(latents[..., ~inside], clean[..., ~inside]) and int(inside.sum()) == 64
    assert not torch.allclose(latents[..., inside], clean[..., inside], atol=0.1)


def test_inpainting_scores_the_box_alone() -> None:
    images = torch.rand(2, 3, 8, 8)
    place = inpainting.box_of(images, 0.5)
    other = images.clone()
    other[..., 0, :] = 0.3  # outside
    assert torch.equal(inpainting.cropped(images, place), inpainting.cropped(other, place))
    alone = inpainting.alone(images, place, images)
    assert torch.equal(alone[..., place[0], place[1]], images[..., place[0], place[1]])
    assert len(alone[0, :, 0].unique(dim=1).T) == 1
    asked = case()
    rows = inpainting.inpainting(subject(), asked, images=3, box=0.5)
    assert [row.role for row in rows] == ["search", "unprompted", "control", "control"]


def test_guidance_goes_up_the_classifier() -> None:
    asked = case()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = latent_classifier.LatentClassifier(4).requires_grad_(False)
    ends = {}
    for scale in (0.0, 20.0):
        with (
            asked.base.on() as view,
            view.stepped(lambda step, s=scale: step.taken(steering.steered(step, network, s))),
        ):
            ends[scale] = view.sample(PROMPTS, SEEDS, steps=4, latent=True, **small("sd1"))
    with asked.base.on() as view:
        plain = view.sample(PROMPTS, SEEDS, steps=4, latent=True, **small("sd1"))
    assert torch.allclose(ends[0.0], plain, atol=1e-4)
    logits = {s: network(x, torch.tensor([[1.0, 0.0]]).expand(4, 2)) for s, x in ends.items()}
    assert bool((logits[20.0] > logits[0.0]).all())


def test_the_classifier_is_trained_once_a_case_and_the_rows_are_paired() -> None:
    asked = case()
    given = {"items": 2, "scales": (5.0, 10.0), "pictures": 10, "steps": 3}
    first, second = (steering.steering(subject(), asked, **given) for _ in range(2))
    assert [row.role for row in first] == ["search", "unprompted"] * 2
    for a, b in zip(first, second, strict=True):
        assert a.items == b.items and torch.equal(a.values, b.values)
    assert latent_classifier.trained(asked, 10, 3) is latent_classifier.trained(asked, 10, 3)


def test_a_word_in_place_of_the_concept_really_changes_the_tokens() -> None:
    view = subject().view
    truck = Concept("big_star", templates=("a {}",))
    assert inversion.replaced(view, ["a red big star"], truck, "*") == ["a red *"]
    ids = [view.words.ids("text_encoder", text) for text in ("a red big star", "a red *")]
    assert ids[0] != ids[1] and view.words.token("text_encoder", "*") in ids[1]
    with pytest.raises(NotApplicableError, match="does not name"):
        inversion.replaced(view, ["a red ring"], truck, "*")


@pytest.mark.parametrize("through", [False, True])
def test_a_word_is_found_that_lowers_the_loss(through: bool) -> None:
    asked = case()
    with asked.base.on() as view:
        before = {name: view.words.table(name).detach().clone() for name in view.words.tokenizers}
        search = inversion.Search(steps=3, batch=2, pictures=4)
        carrier, vectors = inversion.found_vectors(view, asked, search, through=through)
        start = inversion.starting(view.words.table("text_encoder"), 1)
    assert carrier == "*" and not torch.allclose(vectors["text_encoder"], start)
    assert all(torch.equal(view.words.table(name), table) for name, table in before.items())


def test_inversion_rows_and_guards() -> None:
    given = {"images": 3, "steps": 1, "batch": 2, "pictures": 4}
    found = inversion.inversion(subject(), case(), **given)
    assert found.role == "search" and len(found.values) == 3 and found.spent["steps"] == 1
    assert inversion.guards(subject()) == "nothing"
    assert torch.equal(inversion.beside_guards(subject(), case(), **given).values, found.values)


def test_shares_of_steps() -> None:
    assert [step_after(share, 4) for share in (0.0, 0.01, 0.5, 1.0)] == [0, 1, 2, 4]


def test_budgets_are_options_that_the_probes_take() -> None:
    for suite in get_args(Suite):
        for probe in probes(suite):
            check_budget(probe, probe.budget(suite) or {})
