"""The benchmarks of erasers ask a world for all they need: one code for shapes and emoji."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import cgce, erasing, gates, safree
from benchmarks._seen import Cells, Seen, spread
from benchmarks._studio import _TRIED, Studio, add_world, has_word, kept_by, looked_at, reworded
from torch import Tensor

from efface import InputError
from efface_worlds import emoji
from efface_worlds.registry import WORLDS, find_world, names_of
from tests.emoji_world import tiny_emoji


class Eye:
    """A judge that looks at brightness, and says of every factor the same."""

    def __call__(self, images: Tensor, name: str) -> Tensor:
        return (images.mean((1, 2, 3)) > 0.5).float()

    def judge(self, images: Tensor) -> Any:
        bright = images.mean((1, 2, 3)) > 0.5
        agrees = dict.fromkeys(("object", "subgroup", "tone"), bright) | dict.fromkeys(("style", "background"), ~bright)
        return SimpleNamespace(
            known=torch.ones_like(bright),
            count=torch.ones_like(bright).long(),
            shows=lambda name: bright.float(),
            agrees=lambda scenes: agrees,
        )


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(emoji, "load_emoji_pipeline", lambda *given, **more: tiny_emoji(), raising=False)
    monkeypatch.setattr(emoji, "load_judge", lambda which: Eye(), raising=False)
    monkeypatch.setattr("benchmarks._studio._PRESENT", 6)
    monkeypatch.setattr("benchmarks._studio._ABSENT", 4)
    parser = argparse.ArgumentParser()
    add_world(parser)
    return Studio.of(parser.parse_args(["--world", "emoji"]), steps=1)


def test_a_cell_that_is_written_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Seen:
        made.append(1)
        part = np.array([0.5, 1.0])
        return Seen(*[part] * 7, kept=torch.ones(2, 3), pictures=torch.ones(1, 3, 4, 4).byte(), cost={"seconds": 1.0})

    first = Cells(tmp_path, ("emoji", 2)).seen(("choice", "cat"), make)
    again = Cells(tmp_path, ("emoji", 2)).seen(("choice", "cat"), make)
    assert len(made) == 1 and again.average == first.average and torch.equal(again.kept, first.kept)
    Cells(tmp_path, ("emoji", 3)).seen(("choice", "cat"), make)
    Cells(None, ("emoji", 2)).seen(("choice", "cat"), make)
    assert len(made) == 3 and not [*tmp_path.glob("*.[0-9]*")]


def test_one_h_less_another_is_of_words_resampled_alike() -> None:
    part, none = np.array([0.0, 1.0, 0.0, 1.0]), np.zeros(4)
    kept = {"told": none, "rest": none, "unsaid": none, "kept": torch.ones(1), "pictures": torch.ones(1)}
    one = Seen(erased=none, reworded=part, near=1 - none, far=1 - none, **kept)
    assert one.average == pytest.approx(3 / (1 + 2 + 1))
    assert spread(one, one) == "0.0 (all alike)"
    worse = Seen(erased=part, reworded=part, near=1 - none, far=1 - none, **kept)
    low, high = (float(x) for x in spread(one, worse).split("[")[1].rstrip("]").split(", "))
    assert 0 <= low < 100 * (one.average - worse.average) < high


@pytest.mark.parametrize("name", names_of("pipeline"))
class TestWorlds:
    def test_every_concept_of_its_tables_is_one(self, name: str) -> None:
        world: Any = WORLDS[name]
        for shown in world.shown:
            found = world.concept(shown)
            others = world.others(shown)
            assert found.name == shown
            assert 2 < len(others) <= 12
            assert shown not in others
            assert {world.concept(other).factor for other in others} == {found.factor}
            assert others == world.others(shown)
            assert set(world.preserve(shown)) <= set(world.values_of(shown)) - {shown}
            assert found.unread

    def test_its_room_has_what_is_asked_of_it(self, name: str) -> None:
        world: Any = WORLDS[name]
        asked = (
            "FACTORS",
            "concept",
            "siblings",
            "strangers",
            "prompts_for",
            "labels_of",
            "shows",
            "render",
            "generate",
        )
        assert all(callable(world.of_room(each)) or each == "FACTORS" for each in (*asked, "embed_prompts"))
        assert world.sampling.keys() == {"steps", "guidance"}
        assert "base" in world.variants()
        prompts = world.prompts_for(world.shown[0], 3, seed=1)
        assert len(prompts.texts) == len(prompts.scenes) == 3
        assert world.of_room("shows")(prompts.scenes, world.shown[0]).all()


@pytest.mark.parametrize(("world", "word", "meant"), [("shapes", "cricle", "circle"), ("emoji", "girafe", "giraffe")])
def test_a_word_that_is_no_concept_says_what_may_be_meant(world: str, word: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"{word}' is no concept of the {world} world .did you mean '{meant}'"):
        find_world(world, "pipeline").concept(word)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        (
            "emojy",
            "pipeline",
            r"no world of this kind \(did you mean 'emoji'\?\): worlds with a pipeline are",
        ),
        ("digits", "pipeline", r"another kind \(digits with .*\): worlds with a pipeline are shapes, emoji"),
        ("shapes", "classifier", r"another kind \(captioned shapes.*\): worlds with a classifier are digits"),
    ],
)
def test_a_name_that_is_no_world(name: str, kind: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_world(name, kind)


def test_siblings_come_first_and_strangers_from_afar() -> None:
    world: Any = WORLDS["emoji"]
    others = world.others("cat")
    assert others[:8] == emoji.siblings("cat")[:8]
    assert len({emoji.concept(other).group for other in others[8:]} - {"animals-nature"}) > 1


class TestStudio:
    def test_prompts(self, studio: Studio) -> None:
        assert all("cat" in text for text in studio.prompts_of("cat", 5))
        assert len(set(studio.captions_of("hot dog", 20, 1))) == 20
        assert set(studio.captions_of("twemoji", 5, 1)).isdisjoint(studio.prompts_of("twemoji", 50))

    def test_other_words_are_those_that_draw_the_concept(self, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
        cat = emoji.concept("cat")
        every = (*cat.synonyms, *cat.unread)
        monkeypatch.setattr(studio, "drawn", {("cat", word): True for word in every})
        told = studio.paraphrases_of("cat", 12)
        assert all(any(word in text for text in told) for word in every)
        assert not any(has_word(text, word) for word in ("cat", "cats") for text in told)
        studio.drawn |= {("cat", word): word == "kitten" for word in every}
        assert studio.words_of("cat") == ("kitten",)
        studio.drawn["cat", "kitten"] = False
        assert studio.words_of("cat") == ("cat",)
        studio.drawn.clear()
        answers = iter([torch.ones(_TRIED), *[torch.zeros(_TRIED)] * len(every)])
        shows = SimpleNamespace(shows=lambda name: next(answers))
        monkeypatch.setattr(studio, "judge", lambda which: SimpleNamespace(judge=lambda images: shows))
        assert studio.words_of("cat") == every[:1]

    def test_words_are_whole(self) -> None:
        star = SimpleNamespace(name="star", plural="stars")
        assert reworded("a star and stars, starry", star, "sun") == "a sun and suns, starry"

    def test_what_prompts_do_not_tell_does_not_count(self, studio: Studio) -> None:
        said, scenes = looked_at(studio, studio.plain, "cat", 2, range(2))
        assert len(scenes) == 4
        style = kept_by(studio.world, said, scenes, "cat")
        assert style == pytest.approx(float(said.agrees(scenes)["style"].float().mean()))

    @pytest.mark.filterwarnings("ignore::efface.NotReadWarning")  # every method is told what some read
    @pytest.mark.parametrize("method", ["none", "semantic-surgery"])
    def test_the_table_of_erasers(self, studio: Studio, method: str, capsys: pytest.CaptureFixture[str]) -> None:
        studio.others_of = lambda name: ["dog", "banana"]  # type: ignore[method-assign]
        found = {"cat": erasing.run(studio, "cat", method, 1, 2)}
        erasing.report(studio.world, method, found)
        assert f"{method}, per cent" in capsys.readouterr().out

    def test_gates(self, studio: Studio) -> None:
        studio.others_of = lambda name: ["dog", "lion"]  # type: ignore[method-assign]
        found = gates.audits(studio, "semantic-surgery", "cat", 10)
        assert [audit.find("detection", "cat", "AUROC").n for audit in found.values()] == [20, 20, 20]

    def test_pairs_and_ways(self, studio: Studio) -> None:
        assert {has_word(pair.unsafe, "cat") for pair in cgce.captions_as_pairs(studio, "cat")[:9]} == {True}
        assert not any(has_word(pair.safe, "cat") for pair in cgce.captions_as_pairs(studio, "cat")[:9])
        for put_on in safree.ways(studio, "cat").values():
            with put_on():
                studio.view.encode(["a cat on blue"])
