"""MidSteer's switch: means of states go to the anchor's, the mean of all stays, and the map is the one of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, InputError, NothingErasedWarning
from efface.core.hooks import look
from efface.diffusion.values.midsteer import switch_of
from efface.erasers.leace import LeaceFitter
from tests.pipelines import build
from tests.unit.test_closed_form import CLOSE, draws

QUICK: dict[str, Any] = {"samples": 2, "steps": 2}
CIRCLE = Concept("circle", anchor="star", preserve=["square"], templates=["{}", "a red {}"])
PROMPTS = ["a red circle", "a blue square"]
Rows = tuple[Tensor, Tensor]


@pytest.fixture
def rows() -> Rows:
    """Rows `(n, d)`, and of which class each is: of the concept 0, of its anchor 1, of others 2; unbalanced."""
    (x,) = draws(0, (300, 6))
    z = torch.tensor([0] * 40 + [1] * 90 + [2] * 170)
    (shift,) = draws(1, (3, 6))
    return x @ draws(2, (6, 6))[0] + 2 * shift[z], z


def switched(x: Tensor, z: Tensor, *pairs: tuple[int, int | None], strength: float = 1.0, sigma: Any = None) -> Any:
    mean = x.mean(0)
    states = torch.stack([x[z == s].mean(0) for s, _ in pairs])
    targets = torch.stack([mean if t is None else x[z == t].mean(0) for _, t in pairs])
    sigma = torch.cov(x.T) if sigma is None else sigma
    return switch_of(states, sigma, mean, targets, strength=strength, tol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 10.0])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_the_mean_of_the_concept_goes_to_the_anchors(rows: Rows, ridge: float, strength: float) -> None:
    x, z = rows
    s, t, mean = x[z == 0].mean(0), x[z == 1].mean(0), x.mean(0)
    f = switched(x, z, (0, 1), strength=strength, sigma=torch.cov(x.T) + ridge * torch.eye(6, dtype=x.dtype))
    torch.testing.assert_close(f(x[z == 0]).mean(0), s + strength * (t - s), **CLOSE)
    torch.testing.assert_close(f(x).mean(0), mean, **CLOSE)


def test_it_is_the_papers_map_and_the_least(rows: Rows) -> None:
    """By roots: x - Sigma^1/2 (u1 - u2) u1^+ Sigma^-1/2 (x - mu), with u = Sigma^-1/2 (mean - mu)."""
    x, z = rows
    s, t, mean, sigma = x[z == 0].mean(0), x[z == 1].mean(0), x.mean(0), torch.cov(x.T)
    values, vectors = torch.linalg.eigh(sigma)
    root, white = (vectors * values**p @ vectors.T for p in (0.5, -0.5))
    u1, u2 = white @ (s - mean), white @ (t - mean)
    expected = x - (x - mean) @ (root @ torch.outer(u1 - u2, u1) / (u1 @ u1) @ white).T
    f = switched(x, z, (0, 1))
    torch.testing.assert_close(f(x), expected, **CLOSE)
    a = s - mean
    edit = (f(x) - x).square().sum(1).sum() / (len(x) - 1)
    torch.testing.assert_close(edit, (t - s) @ (t - s) / (a @ torch.linalg.inv(sigma) @ a), **CLOSE)
    for other in draws(3, (20, 6))[0]:  # any other affine map that does the same moves rows further
        r = torch.linalg.solve(sigma, a) / (a @ torch.linalg.solve(sigma, a))
        r = r + 0.1 * (other - (other @ a) / (a @ a) * a)
        assert ((x - mean) @ r).square().sum() * ((t - s) @ (t - s)) > edit * (len(x) - 1)


def test_a_switch_to_itself_is_none_and_one_to_the_mean_is_leace(rows: Rows) -> None:
    x, z = rows
    torch.testing.assert_close(switched(x, z, (0, 0))(x), x, **CLOSE)
    leace = LeaceFitter.fit(x, (z == 0).double(), shrinkage=False, dtype=torch.float64).eraser
    torch.testing.assert_close(switched(x, z, (0, None))(x), leace(x), **CLOSE)


def test_the_anchor_moves_and_the_map_can_be_inverted(rows: Rows) -> None:
    x, z = rows
    s, t, mean = x[z == 0].mean(0), x[z == 1].mean(0), x.mean(0)
    f = switched(x, z, (0, 1))
    torch.testing.assert_close(f(t), t - (s - t) * (f.proj_right[0] @ (t - mean)), **CLOSE)
    matrix = torch.eye(6, dtype=x.dtype) - f.proj_left @ f.proj_right
    expected = f.proj_right[0] @ (t - mean)
    torch.testing.assert_close(torch.linalg.det(matrix), expected, **CLOSE)
    assert expected.abs() > 1e-3


def test_several_at_once(rows: Rows) -> None:
    x, z = rows
    f = switched(x, z, (0, 1), (1, 2))
    for s, t in ((0, 1), (1, 2)):
        torch.testing.assert_close(f(x[z == s]).mean(0), x[z == t].mean(0), **CLOSE)


def seen(pipe: Any, **call: Any) -> dict[str, Tensor]:
    """What each cross-attention gives in the one pass of a call."""
    found: dict[str, Tensor] = {}
    layers = {n: m for n, m in pipe.unet.named_modules() if n.endswith("attn2")}
    offs = [look(m, lambda _m, _a, out, n=n: found.update({n: out.clone()})) for n, m in layers.items()]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    given = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "latent", "generator": generators}
    pipe(PROMPTS, **given, **call)
    for off in offs:
        off()
    return found


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_in_a_call_what_cross_attention_gives_the_prompts_is_switched(guidance: float) -> None:
    pipe = build("sd1")
    before = seen(pipe, guidance_scale=guidance)
    erasure = efface.erase(pipe, CIRCLE, "midsteer", **QUICK)
    assert erasure.report["prompts"] == 7 and all(each > 0 for each in erasure.report["moved"].values())
    with erasure.on(pipe) as run:
        during = seen(pipe, guidance_scale=guidance)
    first = next(iter(before))  # those behind it are given what it has changed
    found, there, f = during[first], before[first], erasure.maps["unet"][first]
    assert torch.equal(found[:-2], there[:-2]) and not torch.allclose(found[-2:], there[-2:])
    torch.testing.assert_close(found[-2:], f(there[-2:]))
    assert run.log.counts == dict.fromkeys(before, 1)
    assert all(torch.equal(v, before[name]) for name, v in seen(pipe, guidance_scale=guidance).items())


def test_the_fit_has_the_moments_of_its_prompts() -> None:
    """At the first stage latents are noise: what is gathered there is what the denoiser gives by itself."""
    pipe = build("sd1")
    erasure = efface.erase(pipe, CIRCLE, "midsteer", samples=1, steps=2, shrinkage=False)
    texts = ["circle", "a red circle", "star", "a red star", "square", "a red square", ""]
    view = efface.PipelineView.of(pipe)
    prepared = view.prepare(view.encode(texts), seeds=[0] * len(texts), steps=2)
    found: dict[str, Tensor] = {}
    layers = {n: m for n, m in pipe.unet.named_modules() if n.endswith("attn2")}
    offs = [look(m, lambda _m, _a, out, n=n: found.update({n: out.double()})) for n, m in layers.items()]
    view.denoise(prepared.latents, prepared.timesteps[0], view.encode(texts))
    for off in offs:
        off()
    for name, x in found.items():
        f = erasure.maps["unet"][name].to(torch.float64)
        torch.testing.assert_close(f.bias, x.flatten(0, -2).mean(0), rtol=1e-4, atol=1e-4)
        source, target = (x[i : i + 2].flatten(0, -2).mean(0) for i in (0, 2))
        torch.testing.assert_close(f(x[:2]).flatten(0, -2).mean(0), target, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(f.proj_left[:, 0], source - target, rtol=1e-4, atol=1e-4)


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(InputError, match="text and picture together"):
        efface.erase(build("sd3"), CIRCLE, "midsteer", **QUICK)
    with pytest.raises(InputError, match="samples"):
        efface.erase(build("sd1"), CIRCLE, "midsteer", samples=0)
    with pytest.warns(NothingErasedWarning, match="nothing is switched"):
        efface.erase(build("sd1"), Concept("circle", neutral="circle", templates=["{}"]), "midsteer", **QUICK)
