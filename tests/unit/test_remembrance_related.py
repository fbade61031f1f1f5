"""Registries from any source of relations, one for each erasure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from efface import InputError
from efface.audit.remembrance import Interference, related
from efface.audit.remembrance.interfered import interfered
from efface.diffusion import Anchors
from efface_worlds import emoji

ASKED = ["cat", "dog", "lion", "oak"]


def relations(found: Any) -> dict[str, str]:
    return {each.id: each.relation for each in found}


def test_emoji_by_group_and_subgroup() -> None:
    places = {each.name: (each.group, each.subgroup) for each in emoji.CONCEPTS}
    asked = ["cat", "wolf", "sunflower", "castle"]
    found = related(asked, {"uce | cat": "cat", "uce | castle": "castle"}, places, popularity=[4, 3, 2, 1])
    assert relations(found["uce | cat"]) == {
        "cat": "target", "wolf": "sibling", "sunflower": "neighbour", "castle": "unrelated",
    }  # fmt: skip
    assert relations(found["uce | castle"])["castle"] == "target"
    assert found["uce | cat"].popularity.tolist() == [1, 4, 2, 3]  # in the order of ids


def test_anchors_name_the_siblings() -> None:
    chosen = Anchors("cat", "dog", ("lion",), how="by hand")
    found = related(ASKED, ["cat"], lambda name: chosen.relations, similarity=lambda name: [1.0, 0.8, 0.7, 0.1])
    assert relations(found["cat"]) == {"cat": "target", "dog": "sibling", "lion": "sibling", "oak": "unrelated"}
    assert found["cat"].similarity.tolist() == [1.0, 0.8, 0.7, 0.1]


def test_any_function_and_names_are_compared_folded() -> None:
    found = related(["Cat", "The  Oak"], ["cat"], lambda name: {"the oak": "binomial"})["cat"]
    assert relations(found) == {"Cat": "target", "The  Oak": "binomial"}


def test_a_card_takes_them() -> None:
    rng, places = np.random.default_rng(0), np.arange(4)
    seen = (rng.random((4, 4)) < 0.9).astype(np.int8)
    zero = np.zeros(4, dtype=int)
    matrix = Interference(("cat", "oak"), (), tuple(ASKED), places, zero, zero, tuple(ASKED), places, seen)
    known = related(ASKED, ["cat", "oak"], {name: ("plant" if name == "oak" else "animal",) for name in ASKED})
    assert interfered(matrix, known, smallest_cell=1, draws=50).settings["erasures"] == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"cat": ("a",)}, "source has no place for 'dog'"),
        ({"cat": "animals", "dog": ("a",)}, r"source\['cat'\] is 'animals': write a list"),
        (lambda name: {"dog": "sybling"}, "did you mean 'sibling'"),
        (lambda name: ["dog"], "expected name -> relation"),
    ],
)
def test_what_says_nothing_of_relations_is_refused(source: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        related(ASKED, ["cat"], source)


def test_nobody_is_refused() -> None:
    for asked, erased in (([], ["cat"]), (ASKED, []), (ASKED, [3])):
        with pytest.raises(InputError):
            related(asked, erased, {name: ("a",) for name in ASKED})  # type: ignore[arg-type]
