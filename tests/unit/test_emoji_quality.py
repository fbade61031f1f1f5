"""What the emoji pipeline draws, measured: by concept, with intervals, and whom it leaves out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from efface_worlds.emoji import concepts
from efface_worlds.emoji.concepts import CONCEPTS, STYLES, index_of
from efface_worlds.emoji.drawing import render
from efface_worlds.emoji.scenes import Scenes
from efface_worlds.emoji.shipped import load_judge
from efface_worlds.emoji.training.quality import asked, figures_of, figures_of_words, left_out, other_words
from efface_worlds.emoji.world import Prompts, prompts_for
from efface_worlds.registry import find_world

THINGS = ("cat", "banana", "guitar", "castle", "sunflower", "airplane")


def _few() -> Scenes:
    scenes = asked()
    scenes = replace(scenes, background=torch.zeros_like(scenes.background))
    return scenes[torch.isin(scenes.objects[:, 0], torch.tensor([index_of(name) for name in THINGS]))]


def test_every_concept_is_asked_for_as_often_in_every_style() -> None:
    scenes = asked(each=2)
    cells = scenes.objects[:, 0] * len(STYLES) + scenes.style
    assert torch.bincount(cells).tolist() == [2] * (len(CONCEPTS) * len(STYLES))


def test_renderings_are_right_and_those_of_another_concept_are_not() -> None:
    scenes = _few()
    figures = figures_of(render(scenes), scenes, {"judge1": load_judge(1)})
    assert figures["pictures"] == 8 * len(THINGS)
    for judge in ("judge1", "nearest"):
        share, low, high = figures["judges"][judge]["top1"]
        assert low <= share <= high
        assert share > 0.85
        assert low < high
    assert figures["by_concept"]["cat"]["of"] == 8
    assert figures["by_concept"]["dog"]["of"] == 0
    assert figures["left_out"] == []
    cat = index_of("cat")
    drawn = torch.where(scenes.objects == cat, index_of("dog"), scenes.objects)
    wrong = figures_of(render(replace(scenes, objects=drawn)), scenes, {"judge1": load_judge(1)})
    assert wrong["by_concept"]["cat"]["nearest"] == 0
    assert wrong["left_out"] == ["cat"]
    assert wrong["kept"]["pictures"] == 8 * (len(THINGS) - 1)
    assert wrong["kept"]["nearest"]["top1"][0] > wrong["judges"]["nearest"]["top1"][0]


def test_other_words_are_judged_by_what_they_mean() -> None:
    told, meant = other_words(each=1)
    words = [word for c in CONCEPTS for word in (*c.synonyms, *c.unread)]
    assert sorted(word for _, word in meant) == sorted(words)
    assert all(word in text for (_, word), text in zip(meant, told.texts, strict=True))
    chosen = torch.isin(told.scenes.objects[:, 0], torch.tensor([index_of(name) for name in THINGS]))
    rows = chosen.nonzero()[:, 0].tolist()
    few = Prompts(
        [told.texts[i] for i in rows],
        replace(told.scenes[torch.tensor(rows)], background=torch.zeros(len(rows)).long()),
    )
    drawn = replace(few.scenes, objects=few.scenes.objects.clone())
    unread = torch.tensor([meant[i][0] == "unread" for i in rows])
    drawn.objects[unread, 0] = index_of("dog")
    found = figures_of_words(render(drawn), few, [meant[i] for i in rows], {"judge1": load_judge(1)})
    assert found["read"]["judge1"][0] > 0.7
    assert found["unread"]["judge1"][0] == 0
    assert found["by_word"]["castle"]["chateau"] == {"of": 1, "judge1": 0}


def test_a_concept_is_left_out_by_the_mean_of_the_judges() -> None:
    found = {
        "cat": {"judge1": 8, "judge2": 2, "nearest": 0, "of": 8},
        "dog": {"judge1": 8, "judge2": 1, "nearest": 8, "of": 8},
        "cow": {"judge1": 0, "judge2": 0, "nearest": 0, "of": 0},
    }
    assert left_out(found, ("judge1", "judge2")) == ["dog"]


def test_what_is_left_out_is_in_no_table_and_warns_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = {"dog": {"judge1": 3, "judge2": 2, "nearest": 8, "of": 8}}
    path = tmp_path / "quality.json"
    judges: dict[str, object] = {"judge1": {}, "judge2": {}, "nearest": {}}
    path.write_text(json.dumps({"judges": judges, "by_concept": hits, "left_out": ["dog"]}))
    monkeypatch.setattr(concepts, "QUALITY", path)
    concepts.left_out.cache_clear()
    try:
        assert concepts.left_out() == {"dog": "in 3 and 2 of 8 pictures"}
        emoji = find_world("emoji", "pipeline")
        assert "dog" not in emoji.siblings("cat")
        assert "dog" not in emoji.values_of("cat")
        animals = prompts_for("animal-mammal", 400).scenes
        assert not (animals.objects == index_of("dog")).any()
        assert not (prompts_for(n=3000).scenes.objects == index_of("dog")).any()
        with pytest.warns(UserWarning, match="'dog' is hardly drawn .* in 3 and 2 of 8 pictures"):
            assert "dog" in prompts_for("dog").texts[0]
    finally:
        concepts.left_out.cache_clear()
