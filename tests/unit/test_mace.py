"""MACE's adapters by their definition, its stages, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView
from efface.core.weights import Add, LowRank
from efface.diffusion.weights.fusion import fused_on_rows
from efface.diffusion.weights.maps import masks_of
from efface.diffusion.weights.pictures import Noised, Pictures
from efface.diffusion.weights.suppression import Scenes, _suppressed, attended, focal
from efface.training.loop import Trainer
from tests.pipelines import build, small, tiny
from tests.unit.test_receler import Probabilities, attention
from tests.unit.test_tuning import given_latents

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:method=.* moved others"),
]
CIRCLE = Concept("circle", anchor="star", preserve=["square"], templates=["a {}", "a red {}"])
RING = Concept("ring", anchor="star", templates=["a {}"])
QUICK: dict[str, Any] = {"steps": 2, "sampling_steps": 2, "at_once": 2, "probes": 2, "pictures": 2}
QUICK |= {"learning_rate": 1e-2, "call": small("sd1")}


def fitted(concept: Any = CIRCLE, pipe: Any = None, **options: Any) -> Any:
    return efface.erase(tiny("sd1") if pipe is None else pipe, concept, "mace", **{**QUICK, **options})


def weights(pipe: Any) -> dict[str, Tensor]:
    return {n: v.detach().clone() for n, v in pipe.unet.named_parameters()}


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("refine", [False, True])
def test_the_loss_of_adapters_is_its_definition(refine: bool, squared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With diffusers' own attention, before the first step, where adapters add nothing."""
    x, t = given_latents("sd1")
    kept: list[Tensor] = []
    monkeypatch.setattr(Pictures, "at", lambda self, step: Noised(x, t, x, [0], (1,)))
    monkeypatch.setattr(Scenes, "_masks", lambda self, *args: kept[0])
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[1, 2:5, 3:] = True
    kept.append(mask)
    concept = Concept("circle", anchor="star", templates=["a red {}"])
    erasure = fitted(concept, refine=refine, squared=squared, steps=1)
    assert erasure.report["adapters"][0]["masked"] == pytest.approx(15 / 128)

    pipe = build("sd1")
    if refine:
        efface.erase(pipe, concept, "mace", adapters=False).on(pipe)
    view = PipelineView.of(pipe)
    layers = dict.fromkeys(each.path.rpartition(".")[0] for each in view.key_value_layers())
    plain = {path: Probabilities() for path in layers}
    for path, each in plain.items():
        pipe.unet.get_submodule(path).set_processor(each)
    view.denoise(x, t, view.encode(["a red circle"]).replace(negative=None), **small("sd1"))
    ids = pipe.tokenizer("a red circle", padding="max_length").input_ids
    word = pipe.tokenizer("circle", add_special_tokens=False).input_ids
    at = next(i for i in range(len(ids)) if ids[i : i + len(word)] == word)
    end = pipe.tokenizer.eos_token_id
    rows = [i for i, token in enumerate(ids) if at <= i < at + len(word) or token == end]
    wanted = torch.zeros(())
    for each in plain.values():
        (probabilities,) = each.kept[-1]
        side = int(probabilities.shape[1] ** 0.5)
        cells = mask[1, :: 8 // side, :: 8 // side].flatten() if side <= 8 else None
        assert cells is not None
        part = probabilities[:, cells][:, :, rows]
        wanted = wanted + (part.square().sum() if squared else part.norm())
    assert erasure.report["adapters"][0]["looks"][0]["loss"] == pytest.approx(float(wanted.detach()), rel=1e-4)


def test_attended_is_the_mean_over_pictures_and_everywhere_without_masks() -> None:
    x, t = given_latents("sd1", 2)
    maps, _ = attention("sd1", x, t, ["circle", "a red star"])
    rows = [(1, 2), (3,)]
    each = [sum(m[i][:, :, list(own)].norm() for m in maps.values()) for i, own in enumerate(rows)]
    assert float(attended(maps, rows, None, x, squared=False)) == pytest.approx(float(sum(each)) / 2, rel=1e-5)
    nowhere = torch.zeros(2, 8, 8, dtype=torch.bool)
    assert float(attended(maps, rows, nowhere, x, squared=False)) == 0.0


def test_times_have_the_published_density() -> None:
    found = focal(torch.linspace(0, 1, 20001)[:-1], 1000)
    t = torch.arange(1000)
    wanted = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    counts = torch.histc(found.float() * 1000, 20, 0, 1000) / len(found)
    assert torch.allclose(counts, (wanted / wanted.sum()).view(20, 50).sum(1), atol=2e-3)


def test_rows_are_the_words_and_all_behind_the_text() -> None:
    view = PipelineView.of(tiny("sdxl"))
    tokens = view.tokens("a circle ring")["text_encoder"]
    assert tokens.eos is not None
    rows = _suppressed(view, "a circle ring", "circle")
    assert rows == (*tokens.rows("circle"), *range(tokens.eos, 77))


def test_what_is_changed_is_what_adapters_descend() -> None:
    """Attention to the concept's rows is less after them, everywhere."""
    pipe = build("sd1")
    x, t = given_latents("sd1", 2)
    options: dict[str, Any] = {"refine": False, "fuse": False, "masks": "none", "learning_rate": 0.05, "steps": 4}
    erasure = fitted(pipe=pipe, **options)
    changes = erasure.deltas["unet"].changes
    assert all(isinstance(c, LowRank) and c.up.shape[1] == 1 for (c,) in changes.values())
    assert all(name.endswith(("to_k.weight", "to_v.weight")) for name in changes)
    assert any(n.endswith("to_k.weight") for n in changes)
    found = []
    rows = [_suppressed(PipelineView.of(pipe), "a circle", "circle")] * 2
    for on in (False, True):
        handle = erasure.on(pipe) if on else None
        layers = PipelineView.of(pipe)
        from efface.diffusion.weights.maps import cross_attentions, noted

        with torch.no_grad(), noted(pipe.unet, cross_attentions(layers)) as maps:
            layers.denoise(x, t, layers.encode(["a circle"] * 2).replace(negative=None), **small("sd1"))
        found.append(float(attended(maps, rows, None, x, squared=False)))
        if handle is not None:
            handle.undo()
    assert found[1] < found[0]


def test_the_stages_are_put_together() -> None:
    pipe = build("sd1")
    before = weights(pipe)
    summed = fitted([CIRCLE, RING], pipe, fuse=False, steps=1)
    first = efface.erase(pipe, [CIRCLE, RING], "mace", adapters=False)
    with first.on(pipe):
        refined = weights(pipe)
    with summed.on(pipe):
        after = weights(pipe)
    names = []
    for name, changes in summed.deltas["unet"].changes.items():
        own = [c for c in changes[1:] if isinstance(c, LowRank)]
        names += [name] if len(own) == 2 else []  # the last values have no say in attention
        wanted = refined[name] + sum((c.up @ c.down for c in own), torch.zeros(()))
        assert torch.allclose(after[name], wanted, atol=1e-5)
    assert any("to_k" in name for name in names) and any("to_v" in name for name in names)
    fused = fitted([CIRCLE, RING], pipe, steps=1)
    assert fused.method == "mace" and fused.names == ("circle", "ring") and len(fused.report["adapters"]) == 2
    assert all(isinstance(c, Add) for of in fused.deltas["unet"].changes.values() for c in of[1:])
    assert all(torch.equal(v, before[n]) for n, v in weights(pipe).items())
    assert fused != summed and fused.report["refinement"]["keys"] > 0


def test_of_one_concept_fusion_holds_back_what_is_preserved() -> None:
    pipe = build("sd1")
    alone = fitted(pipe=pipe, fuse=False, refine=False, steps=1)
    moved = []
    for weight in (0.0, 100.0):
        found = fused_on_rows(pipe, [alone], preserve_weight=weight, ridge=1e-6)
        rows = PipelineView.of(pipe).encode(["a square"]).sequence[0]
        changes = [c for (c,) in found.deltas["unet"].changes.values() if isinstance(c, Add)]
        moved.append(sum(float((rows @ c.value.mT).norm()) for c in changes))
        assert changes
    assert moved[1] < 0.5 * moved[0]


def test_it_goes_on_with_the_second_concept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted([CIRCLE, RING])
    descend, count = Trainer.descend, [0]

    def interrupted(self: Trainer, loss: Tensor) -> float:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return descend(self, loss)

    kept: dict[str, Any] = {"checkpoint": tmp_path / "c", "checkpoint_seconds": 0.0}
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Trainer, "descend", interrupted)
        fitted([CIRCLE, RING], **kept)
    with pytest.raises(InputError, match="differs in config"):
        fitted([CIRCLE, RING], **kept, seed=1)
    again = [0]
    with monkeypatch.context() as m:
        m.setattr(Trainer, "descend", lambda self, loss: again.__setitem__(0, again[0] + 1) or descend(self, loss))
        assert fitted([CIRCLE, RING], **kept) == whole
    assert again == [1] and not (tmp_path / "c").exists()


def test_where_the_concept_is_may_be_said() -> None:
    seen: list[Any] = []

    def segment(pictures: Tensor, name: str) -> Tensor:
        seen.append((tuple(pictures.shape), name))
        return torch.ones(len(pictures), 4, 4)

    found = fitted(segment=segment, steps=1)
    assert seen == [((2, 3, 32, 32), "circle")] and found.report["adapters"][0]["masked"] == 1.0
    with pytest.raises(InputError, match="segment gave .* for 2 pictures"):
        fitted(segment=lambda pictures, name: pictures[0])
    with pytest.raises(InputError, match="nowhere in a picture"):
        fitted(segment=lambda pictures, name: torch.zeros(2, 4, 4))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="does nothing: leave refine or adapters on"):
        fitted(refine=False, adapters=False)
    with pytest.raises(InputError, match="reads text and picture at once"):
        fitted(pipe=tiny("sd3"))
    with pytest.raises(InputError, match="is also to be preserved"):
        fitted(Concept("circle", anchor="star", preserve=["star"]))
    masks = masks_of({"a": torch.rand(1, 2, 16, 5)}, [(1,)], torch.zeros(1, 4, 8, 8), 16, 0.5)
    assert masks.shape == (1, 4, 4)
