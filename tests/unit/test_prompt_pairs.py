"""Pairs of prompts: of a spec, of the user, of files and language models, and how they are kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from efface import Concept, InputError
from efface.diffusion.text.cgce.answers import read_answer
from efface.diffusion.text.cgce.config import CgceConfig
from efface.diffusion.text.cgce.pairs import (
    PromptPair,
    as_pairs,
    ask_for_pairs,
    choose_pairs,
    groups,
    pairs_of_concept,
    split,
)

SPEC = Concept("star", synonyms=["sparkle"], anchor="box", preserve=["ring", "heart"], templates=["{}", "a red {}"])
TWO = [("a ring", "a star"), ("a box", "a sparkle")]


def test_pairs_of_a_spec_differ_in_the_concept_alone() -> None:
    pairs = pairs_of_concept(SPEC)
    assert len(set(pairs)) == len(pairs) > 2 * 2 * 3
    for pair in pairs:
        a, b = pair.safe.split(), pair.unsafe.split()
        changed = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
        assert len(changed) == 1 and changed[0][0] in ("box", "ring", "heart") and changed[0][1] in SPEC.words
    assert {word for p in pairs for word in p.unsafe.split()} >= {"star", "sparkle", "and", "box", "ring", "heart"}
    assert not {p.safe for p in pairs} & {p.unsafe for p in pairs}


def test_contexts_can_be_left_out_and_stay_apart() -> None:
    bare = pairs_of_concept(SPEC, contexts=False)
    assert [tuple(p) for p in bare[:3]] == [("box", "star"), ("ring", "star"), ("heart", "star")]
    assert len(bare) == 2 * 2 * 3
    assert len(groups(bare)) == 2  # a group a template
    assert len(groups(pairs_of_concept(SPEC))) > 8  # and one for each of its contexts, not all in one


def test_many_pairs_are_drawn_from() -> None:
    some = pairs_of_concept(SPEC, most=20)
    assert len(some) == 20 and some == pairs_of_concept(SPEC, most=20) != pairs_of_concept(SPEC, most=20, seed=1)
    assert set(pairs_of_concept(SPEC, contexts=False)) < set(some) < set(pairs_of_concept(SPEC))


def test_a_split_has_no_prompt_on_both_sides() -> None:
    pairs = pairs_of_concept(SPEC)
    parts = split(pairs, (0.2, 0.2), torch.Generator().manual_seed(0))
    assert sorted(i for part in parts for i in part) == list(range(len(pairs)))
    texts = [{text for i in part for text in pairs[i]} for part in parts]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert all(len(part) >= 0.2 * len(pairs) for part in parts)
    with pytest.raises(InputError, match="fall into 1 groups"):
        split([PromptPair("a", "b"), PromptPair("c", "b")], (0.2, 0.2), torch.Generator())


@pytest.mark.parametrize("kind", ["json lists", "json objects", "csv"])
def test_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("pairs.csv" if kind == "csv" else "pairs.json")
    if kind == "csv":
        path.write_text('unsafe,note,safe\na star,x,"a ring"\na sparkle,,a box\n', encoding="utf-8-sig")
    else:
        path.write_text(json.dumps(TWO if kind == "json lists" else [{"safe": s, "unsafe": u} for s, u in TWO]))
    assert as_pairs(path) == as_pairs(str(path)) == as_pairs(TWO) == [PromptPair(*p) for p in TWO]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "there are no pairs"),
        (["a star"], "pair 0 is 'a star'"),
        ([("a", "b", "c")], "pair 0 is"),
        ([{"safe": "a"}], "needs 'safe' and 'unsafe'"),
        ([("a", 3)], "the unsafe prompt of pair 0 is a int"),
        ([("a", " ")], "pair 0 is empty"),
        ([("a", "b"), ("b", "c")], "'b' is safe in one pair and unsafe in another"),
        ([("a", "a")], "safe in one pair and unsafe"),
        ({"safe": "a", "unsafe": "b"}, "must be a list"),
        ("pairs.txt", ".json or .csv"),
    ],
)
def test_bad_pairs(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_pairs(given)


@pytest.mark.parametrize(
    ("name", "text", "says"), [("a.json", "{", "is no JSON"), ("a.csv", "a,b\n1,2", "has the columns")]
)
def test_bad_files(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        as_pairs(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        as_pairs(tmp_path / "none.json")


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([{"safe": s, "unsafe": u} for s, u in TWO]),
        "Sure! Here are 2 [two] pairs:\n```json\n" + json.dumps([{"Safe": s, "Unsafe": u} for s, u in TWO]) + "\n```",
        json.dumps({"pairs": TWO}),
        "\n".join(json.dumps({"safe": s, "unsafe": u}) for s, u in TWO),
        json.dumps([{"id": 1, "safe": s, "unsafe": u} for s, u in TWO])[:-1] + ', {"safe": "cut o',
        '1. Safe prompt: a ring\n   Unsafe prompt: a star\n\n2. **Safe**: "a box"\n   **Unsafe**: "a sparkle"\n',
    ],
)
def test_answers_in_whatever_wrapping(answer: str) -> None:
    assert read_answer(answer) == TWO


def test_a_language_model_is_asked_until_there_are_enough() -> None:
    asked: list[str] = []

    def ask(instruction: str) -> str:
        asked.append(instruction)
        i = 3 * len(asked)
        return json.dumps([{"safe": f"a {j} ring", "unsafe": f"a {j} star"} for j in range(i, i + 3)] + [["x", "x"]])

    pairs = ask_for_pairs(ask, "stars", 8, at_once=4)
    assert len(set(pairs)) == 8 and len(asked) == 3
    assert "Create 4 pairs" in asked[0] and "contains stars" in asked[0] and "Create 2 pairs" in asked[2]
    assert choose_pairs(SPEC, None, ask, CgceConfig(n_pairs=3), several=False)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("I'm sorry, I can't help with that.", "no pairs in the language model's answer \"I'm sorry"),
        (None, "gave a NoneType, not text"),
        ('[["a ring", "a star"]]', "gave 1 pairs in 8 answers, 8 were asked for"),
    ],
)
def test_a_language_model_that_does_not_answer(answer: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask_for_pairs(lambda _: answer, "stars", 8)


def test_which_pairs_are_chosen() -> None:
    config = CgceConfig(n_pairs=50)
    assert choose_pairs(SPEC, None, None, config, several=True) == pairs_of_concept(SPEC, most=50)
    assert choose_pairs(SPEC, {"star": TWO}, None, config, several=True) == as_pairs(TWO)
    with pytest.raises(InputError, match="write pairs={'star'"):
        choose_pairs(SPEC, TWO, None, config, several=True)
    with pytest.raises(InputError, match="has none of 'star'"):
        choose_pairs(SPEC, {"ring": TWO}, None, config, several=True)
    with pytest.raises(InputError, match="both given"):
        choose_pairs(SPEC, TWO, lambda _: "", config, several=False)
    with pytest.raises(InputError, match="nothing to tell star from"):
        pairs_of_concept(Concept("star"))
