"""Free token embeddings and noised latents, on tiny pipelines of every make."""

from __future__ import annotations

import pytest
import torch
from benchmarks._soft_tokens import SoftTokens

from efface import InputError, PipelineView
from efface.pipelines.noising import Noising
from tests.pipelines import build, tiny

PROMPT = "a red circle"


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux", "pixart-alpha", "wan", "ltx", "cogvideox"])
def test_free_tokens_start_as_the_word_and_reach_the_denoiser(name: str) -> None:
    view = PipelineView.of(tiny(name))
    tokens = SoftTokens(view, PROMPT, "circle")
    plain = view.encode([PROMPT, PROMPT])
    same = tokens.encode(2)
    for role, value in plain.tensors().items():
        assert torch.equal(same.tensors()[role], value)
    sum((v**2).sum() for k, v in same.tensors().items() if k != "mask").backward()  # type: ignore[union-attr]
    assert all(v.grad is not None and bool(v.grad.abs().sum() > 0) for v in tokens.vectors.values())
    with torch.no_grad():
        for vector in tokens.vectors.values():
            vector.add_(1.0)
    assert not torch.equal(tokens.encode().sequence, plain.sequence[:1])
    assert torch.equal(view.encode([PROMPT, PROMPT]).sequence, plain.sequence)  # nothing is left on the pipeline


def test_other_prompts_of_a_batch_are_left_alone() -> None:
    view = PipelineView.of(tiny("sd1"))
    tokens = SoftTokens(view, PROMPT, "circle")
    with torch.no_grad():
        tokens.vectors["text_encoder"].mul_(3)
    texts = ["a blue circle", PROMPT]
    plain = view.encode(texts).sequence
    with tokens.in_place():
        free = view.encode(texts).sequence
    torch.testing.assert_close(free[0], plain[0])
    assert not torch.allclose(free[1], plain[1])


def test_a_word_that_is_not_there() -> None:
    with pytest.raises(InputError, match="'star' is not in 'a red circle'"):
        SoftTokens(tiny("sd1"), PROMPT, "star")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sd3", "wan"])
def test_the_target_leads_back_to_the_latents(name: str) -> None:
    view = PipelineView.of(build(name))
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    t, noising = torch.tensor([0, 400, 999]), Noising(view.scheduler, view.prediction_type)
    x, target = noising.noised(latents, noise, t), noising.truth(latents, noise, t)
    if view.prediction_type == "flow":
        sigma = (t / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(x - sigma * target, latents, atol=1e-5, rtol=1e-5)
        return
    share = view.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(x, view.scheduler.add_noise(latents, noise, t), atol=1e-5, rtol=1e-5)
    back = {
        "epsilon": (x - (1 - share).sqrt() * target) / share.sqrt(),
        "v_prediction": share.sqrt() * x - (1 - share).sqrt() * target,
    }
    torch.testing.assert_close(back[view.prediction_type], latents, atol=2e-4, rtol=1e-3)
