"""AdaVD: values off the concept's value, as the paper writes it, in the prompts' branch alone or in both at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, InputError, NotReachedWarning, PipelineView
from efface.core.edits import OnStates
from efface.core.hooks import look
from efface.core.site import Site
from efface.diffusion.values.adavd import AdaVD, AdaVDConfig, fit
from tests.edits import Holds
from tests.pipelines import build, direct
from tests.unit.test_closed_form import CLOSE, double

THREE = [Concept("circle"), Concept("star"), Concept("big ring")]
PROMPTS = ["a red circle", "a blue square"]


def values(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """What each value layer makes of prompts, without efface's own way to it: cross-attention reads the rows."""
    tokens = pipe.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        rows = pipe.text_encoder(tokens)[0]
        return {n: m(rows) for n, m in pipe.unet.named_modules() if n.endswith("attn2.to_v")}


def own(pipe: Any, *words: str) -> dict[str, Tensor]:
    """Values of the rows before the end of text, `(k, width)`."""
    found: dict[str, list[Tensor]] = {}
    for word in words:
        ids = pipe.tokenizer(word).input_ids
        for name, v in values(pipe, [word]).items():
            found.setdefault(name, []).append(v[0, len(ids) - 2])
    return {name: torch.stack(each) for name, each in found.items()}


def naive(v: Tensor, concepts: list[Tensor], gate: tuple[float, float, float] | None) -> Tensor:
    """One row off some values, by Gram and Schmidt: u_k = sum_j G_kj c_j, of which each c_j goes by its own delta."""
    k = len(concepts)
    g, u = torch.eye(k, dtype=v.dtype), [c.clone() for c in concepts]
    for i in range(k):
        for j in range(i):
            share = (concepts[i] @ u[j]) / (u[j] @ u[j])  # divided by u, not by c
            u[i] = u[i] - share * u[j]
            g[i] = g[i] - share * g[j]
    delta = [1.0] * k
    if gate is not None:
        s, p, epsilon = gate
        delta = [s / (1 + math.exp(-p * (float(v @ c / (v.norm() * c.norm())) - epsilon))) for c in concepts]
    off = torch.zeros_like(v)
    for i in range(k):
        for j in range(k):
            off += (v @ u[i]) / (u[i] @ u[i]) * g[i, j] * delta[j] * concepts[j]
    return v - off


def seen(pipe: Any, **call: Any) -> dict[str, Tensor]:
    """What each value layer gives in the last pass of a call."""
    found: dict[str, Tensor] = {}
    layers = {n: m for n, m in pipe.unet.named_modules() if n.endswith("attn2.to_v")}
    offs = [look(m, lambda _m, _a, out, n=n: found.update({n: out.clone()})) for n, m in layers.items()]
    pipe(PROMPTS, num_inference_steps=1, height=32, width=32, output_type="latent", **call)
    for off in offs:
        off()
    return found


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("concepts", [THREE[:1], THREE])
def test_it_is_what_the_paper_says(concepts: list[Concept], gate: bool) -> None:
    pipe = double()
    options: dict[str, Any] = {"strength": 1.7, "steepness": 12.0, "epsilon": 0.4}
    erasure = efface.erase(pipe, concepts, "adavd", gate=gate, **options)
    c = own(pipe, *(concept.name for concept in concepts))
    for name, v in values(pipe, PROMPTS).items():
        found = erasure.without("unet", name, v)
        assert torch.equal(found[:, 0], v[:, 0]), "the start of text stays"
        for row in (1, 3, 5, 40, 76):
            for i in range(2):
                expected = naive(v[i, row], [*c[name]], (1.7, 12.0, 0.4) if gate else None)
                torch.testing.assert_close(found[i, row], expected, **CLOSE)


def test_the_mean_from_the_word_to_the_end_is_a_value_too() -> None:
    """Uni-AdaVD's vector for what no one row names."""
    pipe = double()
    erasure = efface.erase(pipe, THREE[0], "adavd", target="mean", epsilon=0.43, strength=1.0)
    last = len(pipe.tokenizer("circle").input_ids) - 2
    for name, v in values(pipe, PROMPTS).items():
        c = values(pipe, ["circle"])[name][0, last:].mean(0)
        found = erasure.without("unet", name, v)
        for row in (1, 5, 76):
            torch.testing.assert_close(found[0, row], naive(v[0, row], [c], (1.0, 100.0, 0.43)), **CLOSE)
    assert efface.erase(pipe, THREE, "adavd", target="mean").report["vectors"] == 3


@pytest.mark.parametrize("concepts", [THREE[:1], THREE])
def test_without_a_gate_nothing_along_the_concepts_is_left(concepts: list[Concept]) -> None:
    pipe = double()
    erasure = efface.erase(pipe, concepts, "adavd", gate=False)
    for name, c in own(pipe, *(concept.name for concept in concepts)).items():
        v = values(pipe, PROMPTS)[name]
        found = erasure.without("unet", name, v)
        along = found[:, 1:] @ c.T / (v[:, 1:].norm(dim=-1, keepdim=True) * c.norm(dim=-1))
        assert along.abs().max() < 1e-12 and (v[:, 1:] @ c.T).abs().max() > 1e-3
        torch.testing.assert_close(erasure.without("unet", name, found), found, **CLOSE)
        folded = v @ (torch.eye(len(c[0]), dtype=v.dtype) - torch.linalg.pinv(c) @ c)  # W <- (I - c c^+) W
        torch.testing.assert_close(found[:, 1:], folded[:, 1:], **CLOSE)


def test_the_gate_turns_the_concept_round_and_is_half_open_at_epsilon() -> None:
    pipe = double()
    erasure = efface.erase(pipe, Concept("circle"), "adavd", epsilon=0.5)
    for name, c in own(pipe, "circle").items():
        (c,) = c
        across = torch.randn(c.shape, generator=torch.Generator().manual_seed(0), dtype=c.dtype)
        across = across - (across @ c) / (c @ c) * c
        half = c / c.norm() + math.sqrt(3) * across / across.norm()  # its cosine is 1/2
        rows = torch.stack([c, c, half, across]).expand(1, 4, -1)
        found = erasure.without("unet", name, rows)[0]
        torch.testing.assert_close(found[1], -c, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[2], math.sqrt(3) * across / across.norm(), **CLOSE)
        torch.testing.assert_close(found[3], across, **CLOSE)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_in_a_call_the_prompts_are_edited_and_the_negative_branch_is_not(guidance: float) -> None:
    pipe = build("sd1")
    before = seen(pipe, guidance_scale=guidance)
    erasure = efface.erase(pipe, Concept("circle"), "adavd", gate=False)
    with erasure.on(pipe) as run:
        during = seen(pipe, guidance_scale=guidance)
    for name, v in before.items():
        assert len(v) == (4 if guidance > 1 else 2)
        assert torch.equal(during[name][:-2], v[:-2])
        torch.testing.assert_close(during[name][-2:], erasure.without("unet", name, v[-2:]))
        assert not torch.allclose(during[name][-2:], v[-2:])
    assert run.log.counts == dict.fromkeys(before, 1)
    assert all(torch.equal(v, before[name]) for name, v in seen(pipe, guidance_scale=guidance).items())


def test_jointly_both_halves_are_one_vector() -> None:
    pipe = double()
    erasure = efface.erase(pipe, THREE, "adavd", branches="joint", steepness=10.0)
    assert {float(e) for of in erasure.epsilon.values() for each in of.values() for e in each} == {0.93}
    before, empty, c = seen(pipe, guidance_scale=5.0), values(pipe, [""]), own(pipe, "circle", "star", "big ring")
    with erasure.on(pipe):
        during = seen(pipe, guidance_scale=5.0)
    for name, v in before.items():
        assert torch.equal(during[name][:, 0], v[:, 0])
        for row in (1, 4, 76):
            for i in range(2):
                both = torch.cat([v[i, row], v[2 + i, row]])
                concepts = [torch.cat([empty[name][0, row], each]) for each in c[name]]
                expected = naive(both, concepts, (2.0, 10.0, 0.93))
                found = torch.cat([during[name][i, row], during[name][2 + i, row]])
                torch.testing.assert_close(found, expected, **CLOSE)
    with erasure.on(pipe), pytest.raises(InputError, match="no.*in this pass.*branches='cond'"):
        seen(pipe, guidance_scale=1.0)


def test_epsilon_lies_between_the_concept_and_the_others() -> None:
    pipe = double()
    concept = Concept("circle", anchor="star", preserve=["square"], templates=["{}", "a red {}"])
    erasure = efface.erase(pipe, concept, "adavd")
    texts = ["circle", "a red circle", "star", "square", "a red star", "a red square", ""]
    c = own(pipe, "circle")
    last = [len(pipe.tokenizer(text).input_ids) - 2 for text in texts[:2]]
    for name, v in values(pipe, texts).items():
        cos = torch.cosine_similarity(v, c[name][0], dim=-1)
        mine = torch.cat([cos[i, row:] for i, row in enumerate(last)]).mean()
        others = cos[2:, 1:].max()
        expected = ((mine if mine > others else 1.0) + others) / 2
        torch.testing.assert_close(erasure.epsilon["unet"][name][0], expected, **CLOSE)
        assert erasure.report["epsilon"]["unet"][name] == [round(float(expected), 4)]


@pytest.mark.parametrize("kind", ["sdxl", "pixart-alpha", "pixart-sigma", "wan", "ltx"])
def test_other_pipelines_with_cross_attention(kind: str) -> None:
    pipe = build(kind)
    given: Any = (kind, PROMPTS, [0, 1], 1, pipe)
    before = direct(*given)
    with efface.erase(pipe, Concept("circle"), "adavd", gate=False).on(pipe) as run:
        during = direct(*given)
    assert run.log.counts and not torch.equal(before, during)
    assert torch.equal(direct(*given), before)


@pytest.mark.parametrize("kind", ["sd3", "flux", "cogvideox", "hunyuan-video"])
def test_values_that_have_met_the_picture_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="text and picture together"):
        efface.erase(build(kind), Concept("circle"), "adavd")


def test_what_it_cannot_do_is_said() -> None:
    pipe = build("sd1")
    erasure = efface.erase(pipe, Concept("circle"), "adavd", gate=False)
    other = build("sd1")
    with torch.no_grad():
        other.unet.conv_in.weight.mul_(1.5)
    with pytest.raises(InputError, match="not the model of the fit"):
        erasure.on(other)
    nowhere: Any = AdaVD({"vae": {"x": torch.ones(1, 2)}}, {}, {}, {}, (), {})
    with pytest.raises(InputError, match="no denoiser 'vae'"):
        nowhere.on(pipe)
    with pytest.raises(InputError, match="does not go together"):
        nowhere.check()
    with erasure.on(pipe), pytest.warns(NotReachedWarning, match="projections are fused"):
        pipe.fuse_qkv_projections(vae=False)
        seen(pipe, guidance_scale=5.0)


def test_parallel_values_share_what_is_taken_off() -> None:
    pipe = double()
    once = efface.erase(pipe, Concept("circle"), "adavd", gate=False)
    same = [Concept("circle"), Concept("CIRCLE")]  # which `erase` would refuse
    twice = fit(PipelineView.of(pipe), same, AdaVDConfig(gate=False))
    for name, v in values(pipe, PROMPTS).items():
        torch.testing.assert_close(twice.without("unet", name, v), once.without("unet", name, v), **CLOSE)


def test_a_view_knows_its_layers_by_what_they_read() -> None:
    paths = {layer.path for layer in PipelineView.of(build("sd1")).key_value_layers() if layer.text_alone}
    assert paths and all("attn2" in path for path in paths)
    assert not [layer for layer in PipelineView.of(build("sd3")).key_value_layers() if layer.text_alone]


def test_states_inside_a_denoiser_must_keep_their_shape() -> None:
    pipe = build("sd1")
    path = PipelineView.of(pipe).key_value_layers()[0].path
    short = Holds((OnStates({Site(path): lambda x, _given: x[:, :2]}, part="unet"),))
    with short.on(pipe), pytest.raises(InputError, match="must keep the shape"):
        seen(pipe, guidance_scale=5.0)
