"""Erasers that tune a denoiser: their losses by definition, what is trained, going on to the same bits, divergence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import Concept, EffaceWarning, InputError, PipelineView
from efface.core.weights import LowRank
from efface.diffusion.weights import ablation, spm, tuning
from efface.diffusion.weights.draws import Drawn, Draws
from efface.diffusion.weights.layers import Modules, chosen_layers
from efface.diffusion.weights.pictures import Noised, Pictures
from efface.diffusion.weights.student import LowRankAdapters, TunedWeights
from efface.training.loop import DivergedError, Trainer
from efface.training.seeds import generator, seeds_of
from tests.pipelines import build, df, small, state, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:method=.* moved others"),
]
CIRCLE = Concept("circle", preserve=["square", "star"], templates=["{}", "a {}", "a red {}", "a small {}", "the {}"])
QUICK: dict[str, Any] = {"steps": 4, "sampling_steps": 3, "at_once": 2, "probes": 2, "evaluate_every": 2}
OF: dict[str, dict[str, Any]] = {
    "esd": {"learning_rate": 1e-3},
    "concept-ablation": {"learning_rate": 1e-3, "pictures": 2, "batch": 2},
    "gradient-ascent": {"learning_rate": 1e-3, "pictures": 2, "batch": 2},
    "task-vector": {"learning_rate": 1e-3, "pictures": 2, "batch": 2},
    "spm": {"learning_rate": 1e-2, "others": 2},
    "adv-unlearn": {"learning_rate": 1e-3, "warm_up": 2, "attack_steps": 2, "attack_rate": 1e-2, "retained": 2},
    "receler": {"learning_rate": 1e-2, "rank": 4, "attack_steps": 2, "attack_rows": 3},
}


def fitted(method: str, pipe: Any = None, name: str = "sd1", concept: Any = CIRCLE, **options: Any) -> Any:
    pipe = tiny(name) if pipe is None else pipe
    return efface.erase(pipe, concept, method, **{**QUICK, **OF[method], "call": small(name), **options})


def first_loss(erasure: Any) -> float:
    return erasure.report["looks"][0]["loss"]


def given_latents(name: str, n: int = 1) -> tuple[Tensor, Tensor]:
    """Latents and timesteps to take a step at."""
    view = PipelineView.of(tiny(name))
    prepared = view.prepare(view.encode(["circle"]), steps=4, **small(name))
    noise = torch.randn(n, *prepared.latents.shape[1:], generator=torch.Generator().manual_seed(5))
    return noise, prepared.timesteps[1:2].expand(n)


# ------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize(
    ("options", "of"),
    [({}, None), ({}, "red star"), ({"preset": "paper"}, None), ({"eta": 0.7, "base": "neutral"}, "red star")],
    ids=str,
)
def test_the_loss_of_esd_is_its_definition(
    name: str, options: dict[str, Any], of: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t = given_latents(name)
    monkeypatch.setattr(Draws, "at", lambda self, step: Drawn(x, t, self._aims[:1]))
    concept = Concept("circle", preserve=["square"], erase_from=of)
    erasure = fitted("esd", name=name, concept=concept, **options, learning_rate=1e-9, steps=1)

    view = PipelineView.of(tiny(name))
    encoded = view.encode(["circle", of or "circle", ""])
    guided = view.guidance.negative
    neutral = encoded.negative[2] if guided and encoded.negative is not None else encoded[2]
    call: dict[str, Any] = small(name) | ({} if guided else {"guidance_scale": 3.0})

    def said(embedding: Any) -> Tensor:
        return view.denoise(x, t, embedding.replace(negative=None), **call).double()

    concept_, from_, null = said(encoded[0]), said(encoded[1]), said(neutral)
    eta: float = 1.0 if "preset" in options else options.get("eta", 2.0)
    base = null if options else from_
    wanted = (from_ - (base - eta * (concept_ - null))).square().mean()
    assert first_loss(erasure) == pytest.approx(float(wanted), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("kind", ["model", "noise"])
@pytest.mark.parametrize("prior", [0.0, 0.5])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sd3"])
def test_the_loss_of_concept_ablation_is_its_definition(
    name: str, kind: str, prior: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t = given_latents(name, 2)
    truth = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    monkeypatch.setattr(Pictures, "at", lambda self, step, stream=0: Noised(x, t, truth, [1, 2]))
    concept = Concept("circle", anchor="star", templates=CIRCLE.templates)
    more = {"kind": kind, "prior": prior, "learning_rate": 1e-9, "steps": 1}
    erasure = fitted("concept-ablation", name=name, concept=concept, **more)

    view = PipelineView.of(tiny(name))

    def said(texts: list[str]) -> Tensor:
        return view.denoise(x, t, view.encode(texts).replace(negative=None), **small(name)).double()

    asked, anchor = said(["a circle", "a red circle"]), said(["a star", "a red star"])
    wanted = (asked - (anchor if kind == "model" else truth)).square().mean()
    wanted = wanted + prior * (anchor - truth).square().mean()
    assert first_loss(erasure) == pytest.approx(float(wanted), rel=1e-4)
    assert erasure.report["anchors"] == {"circle": "star"}


def test_without_an_anchor_the_nearest_of_what_is_preserved_is_taken() -> None:
    view = PipelineView.of(tiny("sd1"))
    found = fitted("concept-ablation", steps=1).report["anchors"]["circle"]
    assert found in CIRCLE.preserve and found == ablation.anchors_of(view, [CIRCLE])[0]


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "flux"])
@pytest.mark.parametrize("anchor", [None, "star"])
def test_the_loss_of_spm_is_its_definition(name: str, anchor: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step the adapter adds nothing, so that it says of other texts what was said before."""
    x, t = given_latents(name)
    monkeypatch.setattr(Draws, "at", lambda self, step: Drawn(x, t, self._aims[:1]))
    erasure = fitted("spm", name=name, concept=Concept("circle", anchor=anchor), eta=0.5, steps=1)
    view = PipelineView.of(tiny(name))
    encoded = view.encode(["circle", anchor or ""])
    own = encoded.negative is not None and anchor is None
    shown = encoded.negative[1] if own and encoded.negative is not None else encoded[1]
    call: dict[str, Any] = small(name) | ({} if view.guidance.negative else {"guidance_scale": 3.0})

    def said(embedding: Any) -> Tensor:
        return view.denoise(x, t, embedding.replace(negative=None), **call).double()

    concept_, instead = said(encoded[0]), said(shown)
    wanted = (concept_ - (instead - 0.5 * (concept_ - instead))).square().mean()
    assert first_loss(erasure) == pytest.approx(float(wanted), rel=1e-4)


def test_other_texts_are_as_long_as_one_and_say_something_else() -> None:
    embedding = PipelineView.of(tiny("sdxl")).encode(["circle"]).replace(negative=None)
    assert embedding.pooled is not None
    drawn = spm.other_texts(embedding, 20, torch.Generator().manual_seed(0))
    for role, own in embedding.tensors().items():
        sizes = drawn.tensors()[role].flatten(1).norm(dim=1) / own.norm()
        assert 0.8 <= float(sizes.min()) < 0.9 and 1.1 < float(sizes.max()) <= 1.2 + 1e-6
    cosines = torch.nn.functional.cosine_similarity(drawn.sequence.flatten(1), embedding.sequence.flatten(1))
    assert float(cosines.abs().max()) < 0.2


def test_the_rate_of_spm_is_that_of_diffusers() -> None:
    config = spm.SpmConfig(steps=3000)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    theirs = df.optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
        optimizer, 500, 3000, num_cycles=3
    ).lr_lambdas[0]
    for step in (0, 1, 250, 499, 500, 1000, 1400, 2999):
        assert config.rate(step) == pytest.approx(1e-4 * theirs(step), abs=1e-12)


def test_adapters_are_low_rank_and_leave_weights_as_they_were_until_they_are_on() -> None:
    pipe = build("sd1")
    unet, layers = pipe.unet, tuple(chosen_layers(PipelineView.of(pipe), "transformers"))
    student = LowRankAdapters(unet, layers, 2, torch.Generator().manual_seed(0))
    assert student.changes(student.values()) == {}
    new = [torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) for i, v in enumerate(student.trained)]
    with student.holding(new):
        for path in layers:
            w = student.module.get_submodule(path).get_parameter("parametrizations.weight.original")
            assert w.data_ptr() == unet.get_submodule(path).weight.data_ptr()
        effective = {path: getattr(student.module.get_submodule(path), "weight").detach().clone() for path in layers}  # noqa: B009
    changes = student.changes(new)
    for path in layers:
        change = changes[f"{path}.weight"]
        assert isinstance(change, LowRank) and change.up.shape[1] == 2
        assert torch.allclose(change.on(unet.get_submodule(path).weight), effective[path], atol=1e-6)
    assert any(unet.get_submodule(path).weight.ndim == 4 for path in layers)


def test_ascent_is_the_task_vector_where_both_took_one_step() -> None:
    """Adam's first step does not see the size of the gradient: up once, or down once and back twice."""
    once: dict[str, Any] = {"steps": 1, "keep": "last", "learning_rate": 1e-4}
    up, back = fitted("gradient-ascent", **once), fitted("task-vector", **once)
    half = fitted("task-vector", **once, alpha=0.5)
    for name, (change,) in up.deltas["unet"].changes.items():
        assert torch.allclose(change.value, back.deltas["unet"].changes[name][0].value, atol=2e-7)
        assert torch.allclose(half.deltas["unet"].changes[name][0].value, change.value / 2, atol=2e-7)


def test_ascent_descends_beside_it_on_what_is_retained() -> None:
    """Gradient difference; with a bound that is under the loss, what is retained is all of it."""
    once: dict[str, Any] = {"steps": 1, "evaluate_every": 1}
    climb, both = (first_loss(fitted("gradient-ascent", **once, retain=times)) for times in (0.0, 1.0))
    one, two = (first_loss(fitted("gradient-ascent", **once, retain=times, bound=1e-9)) for times in (1.0, 2.0))
    assert climb < 0 < one
    assert two == pytest.approx(2 * one, rel=1e-5)
    assert both == pytest.approx(climb + one, rel=1e-5)


def test_an_ascent_ends_at_its_bound() -> None:
    """A bound under the loss that there is leaves nothing to climb: no weight moves."""
    still = fitted("gradient-ascent", steps=2, keep="last", bound=1e-6)
    assert not still.deltas["unet"].changes
    assert fitted("gradient-ascent", steps=2, keep="last", bound=1e6).deltas["unet"].changes


def test_what_is_retained_has_to_be_named() -> None:
    with pytest.raises(InputError, match=r"preserve=\[\.\.\.\]"):
        fitted("gradient-ascent", concept=Concept("cat"), retain=1.0)


# ------------------------------------------------------------------------------------------- what is trained


def layers_by_name(denoiser: nn.Module, part: str) -> set[str]:
    return {n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and part in n}


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_layers_by_role_are_those_that_the_releases_choose_by_name(name: str) -> None:
    view = PipelineView.of(tiny(name))
    cross, alone = (layers_by_name(view.denoiser, part) for part in (".attn2.", ".attn1."))
    every = layers_by_name(view.denoiser, "")
    wanted: dict[Modules, set[str]] = {
        "x": cross,
        "x-strict": {n for n in cross if n.endswith((".to_k", ".to_v"))},
        "self": alone,
        "attention": cross | alone,
        "transformers": {n for n in every if ".attentions." in n},
        "u": every - cross,
        "all": every,
    }
    assert cross and alone
    for which, names in wanted.items():
        assert set(chosen_layers(view, which)) == names


def test_layers_by_role_of_joint_attention() -> None:
    view = PipelineView.of(tiny("sd3"))
    joint = {n for n in layers_by_name(view.denoiser, ".attn.")}
    assert set(chosen_layers(view, "x")) == joint
    assert {n.rpartition(".")[2] for n in chosen_layers(view, "x-strict")} == {"add_k_proj", "add_v_proj"}
    assert set(chosen_layers(view, "transformers")) == set(chosen_layers(view, "all"))
    assert set(chosen_layers(view, "u")) == layers_by_name(view.denoiser, "") - joint
    with pytest.raises(InputError, match=r"no layers of modules='self'.*choose one of 'x'"):
        fitted("esd", name="sd3", modules="self")


@pytest.mark.parametrize("name", ["pixart-sigma", "cogvideox", "ltx", "hunyuan-video", "wan"])
def test_denoisers_of_other_kinds_can_be_tuned(name: str) -> None:
    pipe = build(name)
    before = {n: v.clone() for n, v in pipe.transformer.state_dict().items()}
    erasure = fitted("esd", pipe, name=name, steps=2, keep="last")
    chosen = chosen_layers(PipelineView.of(pipe), "x")
    assert {n.rpartition(".")[0] for n in erasure.deltas["transformer"].changes} <= chosen.keys()
    with erasure.on(pipe):
        assert not all(torch.equal(v, before[n]) for n, v in pipe.transformer.state_dict().items())
    assert all(torch.equal(v, before[n]) for n, v in pipe.transformer.state_dict().items())


@pytest.mark.parametrize("which", ["x", "x-strict", "self", "u"])
def test_nothing_else_changes(which: Modules) -> None:
    pipe = build("sd1")
    pipe.unet.requires_grad_(True)
    before, weights = state(pipe), {n: v.clone() for n, v in pipe.unet.state_dict().items()}
    erasure = fitted("esd", pipe, modules=which, keep="last")
    chosen = set(chosen_layers(PipelineView.of(pipe), which))
    changed = {name.rpartition(".")[0] for name in erasure.deltas["unet"].changes}
    assert changed and changed <= chosen
    if which in ("x", "x-strict"):  # keys alone could have no gradient where a bias is all that is read
        assert {n for n in chosen if n.endswith(".to_v")} <= changed
    assert state(pipe) == before and all(p.grad is None for p in pipe.unet.parameters())
    assert all(torch.equal(v, weights[n]) for n, v in pipe.unet.state_dict().items())
    assert erasure.report["trained"] == sum(p.numel() for n in chosen for p in pipe.unet.get_submodule(n).parameters())


def test_a_student_shares_what_it_does_not_train() -> None:
    unet = tiny("sd1").unet
    chosen = list(chosen_layers(PipelineView.of(tiny("sd1")), "x-strict"))
    student = TunedWeights(unet, chosen)
    own = dict(unet.named_parameters())
    for name, value in student.module.named_parameters():
        assert (value.data_ptr() == own[name].data_ptr()) is not value.requires_grad
        assert value.requires_grad is (name.rpartition(".")[0] in chosen)
    new = [value + torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) for value in student.values()]
    for name, value in zip(student.names, new, strict=True):
        assert torch.allclose(own[name] + student.changes(new)[name].value, value, rtol=3e-7, atol=1e-7)  # type: ignore[union-attr]
    assert student.changes(student.values()) == {}


def test_half_precision_is_trained_in_float32_and_checkpointing_changes_nothing() -> None:
    found = fitted("esd", build("sd1").to(torch.bfloat16), keep="last")
    changes = found.deltas["unet"].changes.values()
    assert {c.value.dtype for (c,) in changes} == {torch.float32}
    plain, light = fitted("esd", keep="last"), fitted("esd", keep="last", gradient_checkpointing=True)
    for name, (change,) in plain.deltas["unet"].changes.items():
        assert torch.allclose(change.value, light.deltas["unet"].changes[name][0].value, atol=1e-5)


# --------------------------------------------------------------------------------------------- the course of it


ALIKE = ("concept-ablation", "gradient-ascent", "spm", "task-vector")
"""Methods whose steps are kept by the trainer as those of `esd` are: tried among the slow tests."""


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("esd", {"preset": "paper"}),
        *(pytest.param(method, {}, marks=pytest.mark.slow if method in ALIKE else ()) for method in OF),
    ],
    ids=str,
)
def test_it_goes_on_to_the_same_bits(
    method: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(method, **more)
    descend = Trainer.descend

    def interrupted(self: Trainer, loss: Tensor) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return descend(self, loss)

    kept: dict[str, Any] = {"checkpoint": tmp_path / "c", "checkpoint_seconds": 0.0}
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Trainer, "descend", interrupted)
        fitted(method, **more, **kept)
    with pytest.raises(InputError, match="differs in config"):
        fitted(method, **more, **kept, seed=1)
    assert fitted(method, **more, **kept) == whole
    assert not (tmp_path / "c").exists()


def test_the_best_weights_are_kept_by_the_rule_that_the_report_states() -> None:
    best, last = fitted("esd", steps=6), fitted("esd", steps=6, keep="last")
    looks = best.report["looks"]
    assert [look["step"] for look in looks] == [2, 4, 6] and looks == last.report["looks"]
    scores = [look["miss"] + look["drift"] for look in looks]
    assert best.report["kept_step"] == looks[scores.index(min(scores))]["step"] and last.report["kept_step"] == 6
    assert fitted("esd", steps=best.report["kept_step"], keep="last").deltas["unet"].changes.keys()
    for name, (change,) in fitted("esd", steps=best.report["kept_step"], keep="last").deltas["unet"].changes.items():
        assert torch.equal(change.value, best.deltas["unet"].changes[name][0].value)
    assert set(best.report["compared_on"]["kept"]) <= {p for w in CIRCLE.preserve for p in CIRCLE.prompts(w)} | {None}
    assert {"seconds", "cpu_seconds"} <= best.provenance["cost"].keys()


def test_miss_and_drift_are_their_definitions() -> None:
    """One probe of each, on latents drawn anew here."""
    concept = Concept("circle", templates=["a {}"] * 1, preserve=["star"])
    erasure = fitted("esd", concept=concept, probes=1, keep="last")
    view = PipelineView.of(tiny("sd1"))
    (asked,), (kept,) = (erasure.report["compared_on"][each] for each in ("concept", "kept"))
    encoded = view.encode([asked, kept])
    assert encoded.negative is not None
    null = encoded.negative[0]

    def latents(text: str, stream: int) -> tuple[Tensor, Tensor]:
        seed = seeds_of(1, generator(0, 1, stream))
        steps: list[Any] = []
        tiny("sd1")(  # after one step of three: int(0.5 * 3)
            text,
            generator=torch.Generator().manual_seed(seed[0]),
            guidance_scale=3.0,
            num_inference_steps=3,
            output_type="latent",
            callback_on_step_end=lambda pipe, i, t, now: steps.append(now["latents"].clone()) or now,
            **small("sd1"),
        )
        return steps[0], view.prepare(encoded[0], steps=3).timesteps[1:2]

    def said(at: tuple[Tensor, Tensor], embedding: Any) -> Tensor:
        return view.denoise(*at, embedding.replace(negative=None)).double()

    here, there = latents(asked, 0), latents(kept, 1)
    before, empty, stay = said(here, encoded[0]), said(here, null), said(there, encoded[1])
    aim = before - 2 * (before - empty)
    with erasure.on(tiny("sd1")):
        after, moved = said(here, encoded[0]), said(there, encoded[1])
    assert erasure.report["miss"] == pytest.approx(float((after - aim).norm() / (before - aim).norm()), rel=1e-3)
    assert erasure.report["drift"] == pytest.approx(float((moved - stay).norm() / (before - empty).norm()), rel=1e-3)


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    wild: dict[str, Any] = {"learning_rate": 1e30, "evaluate_every": 100}
    with pytest.raises(DivergedError, match=r"loss.*not finite.*smaller learning_rate.*smaller evaluate_every"):
        fitted("esd", **wild, checkpoint=tmp_path)
    with pytest.raises(DivergedError, match="the weights after 1 steps are not finite"):
        fitted("esd", **wild, checkpoint=tmp_path, steps=1)


def test_what_a_fit_that_diverged_kept_is_the_erasure_of_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Draws.at

    def spoiled(self: Draws, step: int) -> Drawn:
        x, t, aims = at(self, step)
        return Drawn(x * (float("nan") if step == 3 else 1.0), t, aims)

    with monkeypatch.context() as m, pytest.raises(DivergedError, match="with steps=3 gives the best"):
        m.setattr(Draws, "at", spoiled)
        fitted("esd", checkpoint=tmp_path)
    with monkeypatch.context() as m, pytest.raises(DivergedError, match="give checkpoint="):
        m.setattr(Draws, "at", spoiled)
        fitted("esd")
    rescued, wanted = fitted("esd", checkpoint=tmp_path, steps=3), fitted("esd", steps=3)
    assert rescued == wanted


def test_where_the_rate_depends_on_how_many_steps_there_are_they_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {"checkpoint": tmp_path, "checkpoint_seconds": 0.0}
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(tuning.Tuning, "_found", _interrupt)
        fitted("spm", **kept)
    with pytest.raises(InputError, match="differs in config"):
        fitted("spm", **kept, steps=8)


def _interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def test_several_concepts_and_words_in_one_fit() -> None:
    both = fitted("esd", concept=[Concept("circle", synonyms=["ring"]), Concept("star", preserve=["square"])])
    assert {text.split()[-1] for text in both.report["compared_on"]["concept"]} == {"circle", "star"}
    with pytest.raises(InputError, match="neutral prompts"):
        fitted("esd", concept=[Concept("circle"), Concept("star", neutral="a photo")])


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(InputError, match="does not know 'zebra'"):
        fitted("esd", name="sd3", concept="zebra")
    with pytest.raises(InputError, match="nothing to show in place of circle.*anchor="):
        fitted("concept-ablation", concept="circle")
    with pytest.raises(InputError, match="takes no 'wide'"):
        fitted("esd", call={"wide": 3})
    with pytest.raises(InputError, match="call has 'prompt', which the fit gives itself"):
        fitted("esd", call={"prompt": "a star"})
    with pytest.raises(InputError, match="call"):
        fitted("esd", call=[3])
    with pytest.raises(InputError, match="learning_rate"):
        fitted("esd", learning_rate=0.0)
    with pytest.raises(InputError, match="the anchor 'circle' is what is to be erased"):
        fitted("concept-ablation", concept={"name": "circle", "anchor": "circle"})


def test_denoisers_that_cannot_be_tuned_are_refused() -> None:
    pipe = build("sd1")
    pipe.unet.conv_in.forward = pipe.unet.conv_in.forward
    with pytest.raises(InputError, match="forward of UNet2DConditionModel was replaced"):
        fitted("esd", pipe)
    pipe = build("sd1")
    pipe.unet.conv_in.to("meta")
    with pytest.raises(InputError, match=r"conv_in.weight.*not in memory"):
        fitted("esd", pipe)
    pipe = build("sd1")
    pipe.unet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite before anything is tuned"):
        fitted("esd", pipe)
    pipe = build("sd1")
    pipe.scheduler = df.EDMEulerScheduler()
    with pytest.raises(InputError, match="DDIMScheduler"):
        fitted("concept-ablation", pipe)


def test_a_rate_that_moves_all_else_is_told() -> None:
    with pytest.warns(EffaceWarning, match="moved others more than it brought the concept"):
        fitted("gradient-ascent", learning_rate=1e-2)
