"""Receler: its loss by its definition, masks of attention, and what its adapters act on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from efface import Concept, InputError, PipelineView
from efface.diffusion.weights.draws import Drawn, Draws
from efface.diffusion.weights.maps import cross_attentions, masks_of, noted, resized, word_rows
from efface.diffusion.weights.receler import Adapter, Receler, RecelerConfig, _adversary, outside
from efface.pipelines.following import Given
from efface.training.seeds import generator
from tests.pipelines import build, df, small, tiny
from tests.unit.test_tuning import fitted, given_latents

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:method=.* moved others"),
]


class Probabilities:
    """Diffusers' plain attention, which forms the probabilities by a function of its own, and keeps them."""

    def __init__(self) -> None:
        self.plain, self.kept = df.models.attention_processor.AttnProcessor(), []

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any) -> Any:
        given = encoder_hidden_states
        if given is not None:
            query, key = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(given)))
            probabilities = attn.get_attention_scores(query, key, None)
            self.kept.append(probabilities.unflatten(0, (-1, attn.heads)))
        return self.plain(attn, hidden_states, given, **kwargs)


def attention(name: str, x: Tensor, t: Tensor, prompts: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ours, and diffusers' own."""
    pipe = build(name)
    view = PipelineView.of(pipe)
    paths, embedding = cross_attentions(view), view.encode(prompts).replace(negative=None)
    with torch.no_grad(), noted(pipe.unet, paths) as ours:
        view.denoise(x, t, embedding, **small(name))
    theirs = {path: Probabilities() for path in paths}
    for path, each in theirs.items():
        pipe.unet.get_submodule(path).set_processor(each)
    with torch.no_grad():
        view.denoise(x, t, embedding, **small(name))
    return ours, {path: each.kept[-1] for path, each in theirs.items()}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_attention_to_text_is_what_diffusers_attends_with(name: str) -> None:
    x, t = given_latents(name, 2)
    ours, theirs = attention(name, x, t, ["circle", "a red star"])
    assert ours.keys() == theirs.keys() and len(ours) >= 3
    for path, map_ in ours.items():
        assert torch.allclose(map_, theirs[path], atol=1e-5)


def test_masks_are_their_definition() -> None:
    x, t = given_latents("sd1", 2)
    _, maps = attention("sd1", x, t, ["circle", "a red star"])
    rows = [(1, 2), (3,)]
    found = masks_of(maps, rows, x, 8, 0.4)
    cells = {path: m.shape[2] for path, m in maps.items()}
    most = max(cells.values())
    for i, own in enumerate(rows):
        layers = [m[i][:, :, list(own)].mean(dim=(0, 2)) for path, m in maps.items() if cells[path] == most]
        mean = torch.stack(layers).mean(0)
        scaled = (mean - mean.min()) / (mean.max() - mean.min())
        assert torch.equal(found[i], scaled.reshape(found.shape[1:]) >= 0.4)
    assert 0 < int(found.sum()) < found.numel()
    small_ = resized(found, (found.shape[1] // 2, found.shape[2] // 2))
    assert torch.equal(small_.view(2, *(n // 2 for n in found.shape[1:])), found[:, ::2, ::2])


def test_the_loss_is_its_definition_and_so_is_the_adversary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps: in the first adapters add nothing; in the second they do, and the adversary goes on from its rows."""
    x, t = given_latents("sd1")
    monkeypatch.setattr(Draws, "at", lambda self, step: Drawn(x, t, self._aims[:1]))
    options: dict[str, Any] = {
        "attack_steps": 3,
        "attack_rows": 4,
        "rank": 5,
        "eta": 0.7,
        "localise": 0.5,
        "mask_side": 8,
    }
    options |= {"threshold": 0.3, "keep": "last", "evaluate_every": 1, "concept": Concept("circle")}
    once, twice = (fitted("receler", **options, steps=n) for n in (1, 2))
    adapters = once.adapters["unet"]

    pipe = build("sd1")
    view = PipelineView.of(pipe)
    encoded = view.encode(["circle"])
    assert encoded.negative is not None
    added: dict[str, Tensor] = {}

    def said(embedding: Any) -> Tensor:
        return view.denoise(x, t, embedding.replace(negative=None), **small("sd1"))

    concept, neutral = said(encoded).detach(), said(encoded.negative).detach()
    maps, _ = attention("sd1", x, t, ["circle"])
    last = word_rows(view, "circle", "circle")
    mask = masks_of(maps, [last], x, 8, 0.3)
    rows = torch.rand(4, encoded.sequence.shape[2], generator=generator(0, 15)).requires_grad_()
    adam = torch.optim.Adam([rows], lr=0.1, weight_decay=0.1)

    def loss() -> Tensor:
        for _ in range(3):
            sequence = torch.cat(
                [encoded.sequence[:, : last[-1] + 1], rows[None], encoded.sequence[:, last[-1] + 5 :]], dim=1
            )
            now = said(encoded.replace(sequence=sequence))
            adam.zero_grad()
            (now - concept).square().mean().backward(inputs=[rows])
            adam.step()
        return (now - (neutral - 0.7 * (concept - neutral))).square().mean().detach()

    first = loss()
    assert once.report["looks"][0]["loss"] == pytest.approx(float(first), rel=1e-4)
    for path, a in adapters.items():

        def hook(_m: Any, _a: Any, out: Tensor, path: str = path, a: Adapter = a) -> Tensor:
            added[path] = F.gelu(out @ a.down.T + a.down_bias) @ a.up.T + a.up_bias
            return out + added[path]

        pipe.unet.get_submodule(path).register_forward_hook(hook)
    second, layers = loss(), []
    for o in added.values():
        side = int(o.shape[1] ** 0.5)
        flat = F.interpolate(mask[None].float(), (side, side))[0, 0].flatten() < 0.5
        layers.append(o[0, flat].square().mean(-1).sum() / flat.sum())
    regular = torch.stack(layers).mean().detach()
    assert float(regular) > 0 and twice.report["looks"][1]["loss"] == pytest.approx(
        float(second + 0.5 * regular), rel=1e-3
    )


def test_outside_is_the_mean_square_where_the_mask_is_not() -> None:
    added = {"a": torch.ones(2, 16, 3), "b": 2 * torch.ones(2, 4, 5)}
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert float(outside(added, masks, torch.zeros(2, 4, 16, 16))) == pytest.approx(2.5)
    masks[0] = True
    assert float(outside(added, masks, torch.zeros(2, 4, 16, 16))) == pytest.approx(1.25)


def test_adapters_act_on_the_branches_that_are_asked_for() -> None:
    erasure = fitted("receler", steps=2, keep="last")
    (path, adapter), *_ = erasure.adapters["unet"].items()
    x = torch.randn(4, 6, adapter.down.shape[1], generator=torch.Generator().manual_seed(0))
    given = Given(PipelineView.of(tiny("sd1")).encode(["a", "a"]), 2, (1,), (0,))
    assert not torch.equal(erasure.edited("unet", path, x, given)[:2], x[:2])
    config = RecelerConfig(branches="prompts")
    prompts = Receler(erasure.adapters, erasure.bases, method="receler", concepts=erasure.concepts, config=config)
    found = prompts.edited("unet", path, x, given)
    assert torch.equal(found[:2], x[:2]) and not torch.equal(found[2:], x[2:])
    wrong = Adapter(adapter.down, adapter.down_bias, adapter.up.T, adapter.up_bias)
    with pytest.raises(InputError, match="up of an adapter"):
        Receler({"unet": {path: wrong}}, {}, method="receler", concepts=(), config=config).check()


def test_weights_stay_and_pictures_change() -> None:
    pipe = build("sd1")
    before = {n: v.clone() for n, v in pipe.unet.named_parameters()}
    erasure = fitted("receler", pipe, steps=2, keep="last", learning_rate=1e-2)
    view, call = PipelineView.of(pipe), {"steps": 2, "latent": True, **small("sd1")}
    plain = view.sample("a red circle", 0, **call)
    with erasure.on(pipe):
        assert not torch.equal(view.sample("a red circle", 0, **call), plain)
        assert all(torch.equal(v, before[n]) for n, v in pipe.unet.named_parameters())
    assert torch.equal(view.sample("a red circle", 0, **call), plain)


@pytest.mark.parametrize(("name", "more"), [("pixart-sigma", {}), ("ltx", {"localise": 0.0}), ("sdxl", {"batch": 2})])
def test_denoisers_of_other_kinds(name: str, more: dict[str, Any]) -> None:
    words = Concept("circle", synonyms=["ring"])
    erasure = fitted("receler", name=name, concept=words, steps=1, keep="last", **more)
    assert erasure.report["attack_rows"].keys() == {"circle", "ring"}
    assert any(bool(each.up.any()) for of in erasure.adapters.values() for each in of.values())


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, light = (fitted("receler", steps=2, keep="last", gradient_checkpointing=on) for on in (False, True))
    for path, adapter in plain.adapters["unet"].items():
        assert torch.allclose(adapter.up, light.adapters["unet"][path].up, atol=1e-5)


def test_what_is_refused() -> None:
    for name in ("sd3", "flux"):
        with pytest.raises(InputError, match="reads text and picture at once"):
            fitted("receler", name=name)
    with pytest.raises(InputError, match="masks are of pictures"):
        fitted("receler", name="ltx")
    view = PipelineView.of(tiny("sd1"))
    with pytest.raises(InputError, match="'circle' fills the window"):
        _adversary(view, {"circle": (75, 76)}, RecelerConfig())
    with pytest.raises(InputError, match="threshold"):
        fitted("receler", threshold=1.5)
    assert _adversary(view, {"circle": (1, 2)}, RecelerConfig(attack_steps=0)) is None
    fitted("receler", attack_steps=0, localise=0.0, steps=1)
