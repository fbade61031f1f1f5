"""Changes that a prompt lets in as far as it is near the concept, by their definition, sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView
from efface.core.weights import Add, LowRank
from efface.diffusion import save_lora, save_pipeline
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from efface.diffusion.weights.layers import Modules, chosen_layers
from efface.diffusion.weights.permeable import Nearness, PermeableErasure, permeable
from tests.pipelines import build, small
from tests.unit.test_tuning import fitted

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:method=.* moved others"),
]
PROMPTS = ["circle", "a small circle", "a star", "red ring"]
CONCEPTS = (Concept("circle"), Concept("red star"))


def random_change(pipe: Any, modules: Modules = "transformers", seed: int = 0) -> WeightErasure:
    """A product of rank two beside each layer."""
    changes: dict[str, LowRank] = {}
    source = torch.Generator().manual_seed(seed)
    for path in chosen_layers(PipelineView.of(pipe), modules):
        out, width = pipe.unet.get_submodule(path).weight.flatten(1).shape
        up, down = (torch.randn(s, generator=source) / s[1] ** 0.5 for s in ((out, 2), (2, width)))
        changes[f"{path}.weight"] = LowRank(0.5 * up, down)
    return WeightErasure({"unet": delta_of(pipe.unet, changes)}, method="spm", concepts=CONCEPTS)


def share(pipe: Any, prompt: str, nearness: Nearness) -> float:
    """How far a prompt lets a change in, by hand."""
    found = []
    for word in ("circle", "red star"):
        own, other = (PipelineView.of(pipe).encode([text]).sequence[0].flatten().double() for text in (prompt, word))
        cosine = float(own @ other / (own @ own).sqrt() / (other @ other).sqrt())
        named = sum(part in prompt.split() for part in word.split()) / len(word.split())
        found.append({"cosine": cosine, "words": named, "both": max(cosine, named)}[nearness])
    return max(0.0, *found)


def drawn(pipe: Any, prompts: list[str]) -> Tensor:
    view = PipelineView.of(pipe)
    return view.sample(prompts, [*range(len(prompts))], steps=2, latent=True, batch_size=8, **small("sd1"))


@pytest.mark.parametrize("nearness", ["cosine", "words", "both"])
def test_each_sample_of_a_batch_has_its_own_share(nearness: Nearness) -> None:
    """It is what the change times that share does in the weights, whatever else is in the batch."""
    pipe = build("sd1")
    before, plain = {n: v.clone() for n, v in pipe.unet.named_parameters()}, drawn(pipe, PROMPTS)
    whole = random_change(pipe)
    found = permeable(PipelineView.of(pipe), whole, CONCEPTS, nearness)
    shares = [share(pipe, prompt, nearness) for prompt in PROMPTS]
    with found.on(pipe):
        together = drawn(pipe, PROMPTS)
        assert all(torch.equal(v, before[n]) for n, v in pipe.unet.named_parameters())
    assert len({round(s, 4) for s in shares}) > 2 or nearness == "words"
    for i, by in enumerate(shares):
        with whole.scaled(by).on(pipe):
            wanted = drawn(pipe, PROMPTS)[i]
        assert torch.allclose(together[i], wanted, atol=2e-4), (PROMPTS[i], by)
        assert by == 0 or not torch.allclose(together[i], plain[i], atol=1e-3)
    assert shares[0] == pytest.approx(1.0) and torch.equal(drawn(pipe, PROMPTS), plain)


def test_it_is_saved_joined_and_scaled(tmp_path: Path) -> None:
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    a = permeable(view, random_change(pipe), CONCEPTS[:1], "words")
    b = permeable(view, random_change(pipe, seed=1), CONCEPTS[1:], "words")
    a.save(tmp_path / "a")
    assert efface.load(tmp_path / "a") == a and isinstance(WeightErasure.load(tmp_path / "a"), PermeableErasure)
    with (a & b).on(pipe):
        both = drawn(pipe, PROMPTS[:3])
    for i, one in enumerate((a.whole(), a.whole(), b.whole().scaled(0.5))):  # "a star" has half of the second's name
        with one.on(pipe):
            assert torch.allclose(drawn(pipe, PROMPTS[:3])[i], both[i], atol=2e-4)
    with a.scaled(0.5).on(pipe):
        half = drawn(pipe, PROMPTS[:1])
    with a.whole().scaled(0.5).on(pipe):
        assert torch.allclose(drawn(pipe, PROMPTS[:1]), half, atol=2e-4)
    assert a.nbytes > a.whole().nbytes and a.report["nbytes"] == a.nbytes
    with pytest.raises(InputError, match="joined by a & b"):
        a.then(b)


def test_what_leaves_weights_alone_is_not_exported(tmp_path: Path) -> None:
    pipe = build("sd1")
    found = permeable(PipelineView.of(pipe), random_change(pipe, "x-strict"), CONCEPTS, "both")
    for export in (save_lora, save_pipeline):
        with pytest.raises(InputError, match="leaves weights alone"):
            export(found, pipe, tmp_path / "out")
    save_lora(found.whole(), pipe, tmp_path / "lora")


def test_prompts_that_came_encoded_have_a_cosine_and_no_words() -> None:
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    bare = view.encode(["a red star"]).replace(prompts=())
    by = {n: permeable(view, random_change(pipe, "x-strict"), CONCEPTS, n) for n in ("cosine", "words", "both")}
    assert torch.equal(by["both"].permeability(bare), by["cosine"].permeability(bare))
    assert float(by["both"].permeability(view.encode(["a red star"]))) == 1.0
    with pytest.raises(InputError, match="give prompts as texts"):
        by["words"].permeability(bare)


def test_what_no_prompt_can_let_in_is_refused() -> None:
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    with pytest.raises(InputError, match="looks at more than one place at once"):
        permeable(view, random_change(pipe, "all"), CONCEPTS, "both")
    dense = WeightErasure({"unet": delta_of(pipe.unet, {"conv_in.weight": Add(torch.zeros(16, 4, 3, 3))})})
    with pytest.raises(InputError, match="more than one place|product of low rank"):
        permeable(view, dense, CONCEPTS, "both")
    encoder = WeightErasure({"text_encoder": delta_of(pipe.text_encoder, {})})
    with pytest.raises(InputError, match="text_encoder is no denoiser"):
        permeable(view, encoder, CONCEPTS, "both")


def test_spm_is_transported_where_it_is_asked_for() -> None:
    pipe = build("sd1")
    always, found = (fitted("spm", pipe, steps=2, transport=by) for by in ("none", "both"))
    assert type(always) is WeightErasure and isinstance(found, PermeableErasure) and found.method == "spm"
    assert found.whole().deltas.keys() == always.deltas.keys() and found.words == ("circle",)
    assert {"looks", "nbytes"} <= set(found.report) and found.provenance["cost"]
