"""Latents on their way through a sampling, and noise put into clean ones: against the pipelines and schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from efface import InputError, PipelineView
from efface.pipelines.noising import Noising
from efface.pipelines.partial import partial_samples
from tests.pipelines import df, small, state, tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd3", "flux", "pixart-sigma", "cogvideox", "ltx", "wan"])
def test_samples_on_their_way_are_the_pipelines_own(name: str) -> None:
    view = PipelineView.of(tiny(name))
    prompts, seeds, steps = ["a red circle", "the small star"], [3, 4], 4
    embedding = view.encode(prompts)
    kept: list[Tensor] = []

    def keep(pipe: Any, index: int, t: Any, now: dict[str, Any]) -> dict[str, Any]:
        kept.append(now["latents"].clone())
        return now

    more: dict[str, Any] = {} if name.startswith("pixart") else {"callback_on_step_end": keep}
    more = more or {"callback": lambda index, t, latents: kept.append(latents.clone()), "callback_steps": 1}
    view.sample(embedding, seeds, steps=steps, latent=True, **small(name), **more)
    before = state(tiny(name))
    x, t = partial_samples(view.denoising, embedding, seeds, [2, 3], steps=steps, **small(name))
    assert state(tiny(name)) == before
    times = view.prepare(embedding, steps=steps, **small(name)).timesteps
    assert torch.equal(t, times[[2, 3]])
    wanted = torch.stack([kept[1][0], kept[2][1]])
    if name == "sdxl":  # Euler's latents are scaled before the denoiser is given them
        sigma = view.scheduler.sigmas.new_tensor([float(s) for s in _sigmas(steps)[[2, 3]]])
        wanted = wanted / (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt()
    assert torch.allclose(x, wanted, atol=1e-5, rtol=1e-4)


def _sigmas(steps: int) -> Tensor:
    scheduler = df.EulerDiscreteScheduler.from_config(tiny("sdxl").scheduler.config)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas


def test_at_no_step_they_are_the_noise_and_numbers_must_go_together() -> None:
    view = PipelineView.of(tiny("sd1"))
    embedding = view.encode(["a red circle"])
    x, t = partial_samples(view.denoising, embedding, [7], [0], steps=4, **small("sd1"))
    assert torch.equal(x, view.prepare(embedding, seeds=[7], steps=4).latents) and int(t) == 751
    with pytest.raises(InputError, match="give as many of each"):
        partial_samples(view.denoising, embedding, [7, 8], [0], steps=4)
    with pytest.raises(InputError, match="write steps from 0 to 3"):
        partial_samples(view.denoising, embedding, [7], [4], steps=4)


X, NOISE = (torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(2))
T = torch.tensor([3, 400, 990])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_and_truth_of_diffusion_are_the_schedulers(kind: Any) -> None:
    scheduler = df.DDPMScheduler(prediction_type=kind)
    noising = Noising(scheduler, kind)
    assert torch.allclose(noising.noised(X, NOISE, T), scheduler.add_noise(X, NOISE, T), atol=1e-6)
    wanted = {"epsilon": NOISE, "sample": X, "v_prediction": scheduler.get_velocity(X, NOISE, T)}[kind]
    assert torch.allclose(noising.truth(X, NOISE, T), wanted, atol=1e-6)


def test_noise_of_a_scheduler_that_scales_is_what_the_denoiser_is_given() -> None:
    scheduler = df.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
    scheduler.set_timesteps(1000)
    t = scheduler.timesteps[[200]]
    wanted = scheduler.scale_model_input(scheduler.add_noise(X[:1], NOISE[:1], t), t[0])
    assert torch.allclose(Noising(scheduler, "epsilon").noised(X[:1], NOISE[:1], t), wanted, atol=1e-5)


def test_noise_and_truth_of_flows_are_the_schedulers() -> None:
    scheduler = df.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    noising = Noising(scheduler, "flow")
    t = noising.drawn(scheduler.timesteps, torch.tensor([0.0, 0.4, 0.99]))
    assert torch.equal(t, scheduler.timesteps[[0, 8, 19]])
    assert torch.allclose(noising.noised(X, NOISE, t), scheduler.scale_noise(X, t, NOISE), atol=1e-5)
    # A step of a flow that knows the truth all the way comes to the clean latents.
    assert torch.allclose(
        noising.noised(X, NOISE, t) - t.view(-1, 1, 1, 1) / 1000 * noising.truth(X, NOISE, t), X, atol=1e-5
    )


def test_times_of_diffusion_are_drawn_from_all() -> None:
    noising = Noising(df.DDIMScheduler(), "epsilon")
    assert noising.drawn(torch.tensor([1]), torch.tensor([0.0, 0.5, 0.9999])).tolist() == [0, 500, 999]
