"""The emoji world as data: concepts, sprites, scenes, captions, licences."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

import efface_worlds.emoji as emoji
from efface._errors import FormatError, InputError
from efface_worlds.emoji import drawing
from efface_worlds.emoji.captions import _ADJECTIVES, _LARGE, _SMALL
from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, STYLES, TONES
from efface_worlds.emoji.making import plain, toned
from efface_worlds.emoji.scenes import NONE, SIZE, sample_scenes

ROOM = Path(drawing.__file__).parent
WORDNET = Path("/usr/share/wordnet/data.noun")


def _scenes(n: int = 300, seed: int = 0, **options: object) -> emoji.Scenes:
    return sample_scenes(n, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


class TestConcepts:
    def test_every_word_means_one_concept(self) -> None:
        words = Counter(word for values in emoji.FACTORS.values() for c in values for word in c.words)
        assert [word for word, times in words.items() if times > 1] == []
        for values in emoji.FACTORS.values():
            assert all(emoji.concept(word) is c for c in values for word in c.words)

    def test_names_are_unicodes_and_lie_in_its_hierarchy(self) -> None:
        renamed = {
            c.label.lower().replace("’", "'"): c.name for c in CONCEPTS if c.label.lower().replace("’", "'") != c.name
        }
        assert renamed == {"hourglass done": "hourglass", "locked": "padlock"}
        assert len(CONCEPTS) == 648
        assert len(emoji.subgroups()) == 50
        assert set(emoji.groups()) >= {"animals-nature", "food-drink", "travel-places", "activities", "objects"}
        assert "dog" in emoji.siblings("cat")
        assert "cat" not in emoji.siblings("cat")
        assert "banana" in emoji.strangers("cat")

    def test_each_profession_is_there_three_times(self) -> None:
        assert {len(names) for names in emoji.professions().values()} == {3}
        assert emoji.named_by("profession:pilot") == ("pilot", "woman pilot", "man pilot")
        assert emoji.named_by("pilot") == ("pilot",)
        assert emoji.named_by("animal-bug") == emoji.subgroups()["animal-bug"]
        assert all(emoji.named_by(each.name) == (each.name,) for each in emoji.CONCEPTS)
        assert emoji.named_by("subgroup:hotel") == emoji.subgroups()["hotel"] != emoji.named_by("hotel")
        assert "hotel" in emoji.prompts_for("hotel", 1).texts[0]

    def test_what_is_held_out_is_not_read(self) -> None:
        told = " | ".join(emoji.caption(_scenes(4000), seed=1))
        unread = [word for c in CONCEPTS for word in c.unread]
        read = [word for c in CONCEPTS for word in (c.name, *c.synonyms)]
        mixed = [word for word in unread if any(word in other for other in read)]
        mixed += [word for word in unread if word.split()[0] in (*_SMALL, *_LARGE)]  # a big top hat
        assert len(unread) > 600
        assert [word for word in unread if word not in mixed and f" {word} " in told] == []

    def test_the_tail_is_drawn_less_often(self) -> None:
        weights = torch.tensor([c.weight for c in CONCEPTS])
        assert weights.max() == 1.0
        assert weights.min() == pytest.approx((1 + 647 / 50) ** -0.5)

    def test_an_unknown_word_is_refused_with_what_may_be_meant(self) -> None:
        with pytest.raises(InputError, match="did you mean 'giraffe'"):
            emoji.concept("girafe")

    @pytest.mark.skipif(not WORDNET.is_file(), reason="needs Debian's wordnet-base")
    def test_synsets_are_wordnets(self) -> None:
        lines = {int(line[:8]): line for line in WORDNET.read_text().splitlines() if line[0] != " "}
        for c in CONCEPTS:
            assert (c.synset == "") == (c.offset == -1)
            if c.synset:
                lemmas = [word.lower() for word in lines[c.offset].split()[4:-1:2]]
                assert c.synset.split(".")[0].lower() in lemmas, c.name


class TestScenes:
    def test_same_seed_same_pictures(self) -> None:
        assert torch.equal(emoji.render(_scenes(40)), emoji.render(_scenes(40)))
        assert not torch.equal(emoji.render(_scenes(40)), emoji.render(_scenes(40, seed=1)))

    def test_objects_lie_within_the_picture(self) -> None:
        places = _scenes(2000, two_objects=0.3, small=0.3).places
        assert (places[..., :2] >= 0).all()
        assert (places[..., :2] + places[..., 2:] <= SIZE).all()

    def test_without_jitter_captions_tell_every_place(self) -> None:
        scenes = _scenes(2000, jitter=0.0, two_objects=0.3, small=0.3)
        stray = _scenes(2000, two_objects=0.3, small=0.3)
        told = torch.stack([scenes.count, scenes.small, scenes.place], 1)
        kinds, which = told.unique(dim=0, return_inverse=True)
        assert len(kinds) == 7
        assert all(len(scenes.places[which == i].unique(dim=0)) == 1 for i in range(len(kinds)))
        assert torch.equal(scenes.objects, stray.objects)  # the same scenes, elsewhere
        assert len(stray.places.unique(dim=0)) > 500

    def test_two_objects_do_not_overlap(self) -> None:
        places = _scenes(500, two_objects=1.0).places
        left = places[:, :, 0]
        assert ((left[:, 0] - left[:, 1]).abs() >= places[:, 0, 2]).all()

    @pytest.mark.parametrize(
        "name", ["cat", "animal-bug", "food-drink", "profession:cook", "twemoji", "blue", "dark skin"]
    )
    def test_what_is_left_out_is_not_drawn(self, name: str) -> None:
        options = {"balanced": True, "two_objects": 0.5}
        assert emoji.shows(_scenes(6000, **options), name).any()
        assert not emoji.shows(_scenes(6000, without=[name], **options), name).any()

    def test_black_and_white_has_no_tones(self) -> None:
        scenes = _scenes(6000)
        assert ((scenes.tones != NONE).any(1) & (scenes.style == 3)).sum() == 0
        people = torch.tensor([bool(c.profession) for c in CONCEPTS])[scenes.objects[:, 0]]
        assert (scenes.tones[people, 0] != NONE).float().mean() > 0.25

    def test_nothing_left_to_draw_is_refused(self) -> None:
        with pytest.raises(InputError, match="leaves no style"):
            _scenes(without=[s.name for s in STYLES])


class TestDrawing:
    def test_every_tile_is_a_picture_of_its_own(self) -> None:
        sheets = emoji.load_sprites()
        people = sum(bool(c.profession) for c in CONCEPTS)
        assert sheets.shape == (len(STYLES), len(CONCEPTS) + people * len(TONES), 4, 64, 64)
        drawn = sheets[:, : len(CONCEPTS), 3].flatten(2).sum(2)
        assert (drawn > 0).all()
        assert (sheets[:3, len(CONCEPTS) :, 3].flatten(2).sum(2) > 0).all()
        assert (sheets[3, len(CONCEPTS) :] == 0).all()
        for style, sheet in zip(STYLES, sheets[:, : len(CONCEPTS)], strict=True):
            alike: dict[bytes, list[str]] = {}
            for c, tile in zip(CONCEPTS, sheet, strict=True):
                alike.setdefault(tile.numpy().tobytes(), []).append(c.name)
            # Noto's astronaut has a helmet on, and is one picture whoever wears it.
            one = [names for names in alike.values() if len(names) > 1]
            assert one == ([list(emoji.professions()["astronaut"])] if style.name == "noto" else [])

    def test_what_is_black_is_white_on_black(self) -> None:
        scenes = _scenes(3000, two_objects=0.0, small=0.0)
        ink = scenes[((scenes.style == 3) & (scenes.background == 1)).nonzero()[:, 0]]
        assert (emoji.render(ink).amax((1, 2, 3)) > 0.9).all()

    def test_a_damaged_sheet_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "noto.webp").write_bytes((ROOM / "sprites" / "noto.webp").read_bytes()[:5000])
        with pytest.raises(FormatError, match="missing or damaged"):
            drawing._load(tmp_path / "noto.webp")
        with pytest.raises(FormatError, match="missing or damaged"):
            drawing._load(tmp_path / "none.webp")

    def test_code_points(self) -> None:
        assert plain("1F468-200D-2695-FE0F") == "1f468-200d-2695"
        assert toned("1F468-200D-2695-FE0F", "1f3fb") == "1f468-1f3fb-200d-2695"


class TestCaptions:
    def test_plain_prompts_name_object_style_and_ground(self) -> None:
        scenes = _scenes(50, two_objects=0.0)
        for text, o, s, b in zip(
            emoji.caption(scenes, reader="plain", synonyms=False),
            scenes.objects[:, 0].tolist(),
            scenes.style.tolist(),
            scenes.background.tolist(),
            strict=True,
        ):
            assert CONCEPTS[o].name in text
            assert STYLES[s].name in text
            assert f"{BACKGROUNDS[b].name} background" in text

    def test_plain_captions_say_half_of_the_things_by_other_words_of_training(self) -> None:
        scenes = _scenes(400, two_objects=0.0)
        own, other = 0, 0
        for text, o in zip(emoji.caption(scenes, reader="plain"), scenes.objects[:, 0].tolist(), strict=True):
            found = CONCEPTS[o]
            said = max((w for w in (found.name, *found.synonyms, *found.unread) if w in text), key=len)
            assert said not in found.unread
            own, other = own + (said == found.name and bool(found.synonyms)), other + (said in found.synonyms)
        assert 0.4 < other / (own + other) < 0.6

    def test_captions_of_training_say_things_in_any_order_and_at_length(self) -> None:
        scenes = _scenes(2000, two_objects=0.0, small=0.0)
        told = emoji.caption(scenes, seed=3)
        things = [CONCEPTS[o] for o in scenes.objects[:, 0].tolist()]
        before = [
            min((text.find(w) for w in c.words if w in text), default=0) for text, c in zip(told, things, strict=True)
        ]
        several = sum((c.plural or "-") in text for text, c in zip(told, things, strict=True)) / len(told)
        assert 0.15 < sum(n > 20 for n in before) / len(told) < 0.5 and 0.02 < several < 0.15
        read = {word for text in told for word in text.replace(",", " ").split()}
        assert not read & set(_ADJECTIVES)

    def test_held_out_templates_are_not_read(self) -> None:
        scenes = _scenes(3000)
        read = set(emoji.caption(scenes, reader="train", seed=0, synonyms=False))
        unread = [
            text for text in emoji.caption(scenes[:200], reader="held_out", seed=0) if "{" in text or text in read
        ]
        assert unread == []

    def test_prompt(self) -> None:
        assert (
            emoji.prompt("owl", style="black and white", background="blue")
            == "an owl in black and white on a blue background"
        )
        assert emoji.prompt("unicorn") == "a unicorn"


class TestLicences:
    def test_every_file_that_ships_has_an_entry(self) -> None:
        entries = json.loads((ROOM / "licences.json").read_text(encoding="utf-8"))
        licensed = {name for entry in entries for name in entry["files"]}
        pictures = [p for p in ROOM.rglob("*") if p.suffix in {".webp", ".png", ".svg", ".jpg", ".gif"}]
        assert {p.stem for p in pictures} == {style.designer for style in STYLES}
        for path in [*pictures, ROOM / "vocabulary.json"]:
            assert path.relative_to(ROOM).as_posix() in licensed, f"{path.name} has no licence"
        for entry in entries:
            assert all(entry[key] for key in ("work", "licence", "copyright", "source", "package", "changes"))

    def test_the_notice_names_every_work(self) -> None:
        notice = (ROOM / "NOTICE").read_text(encoding="utf-8")
        for work in ("Noto Emoji", "Twemoji", "Fluent Emoji", "emojibase-data", "WordNet 3.0", "CC-BY 4.0"):
            assert work in notice
        assert os.path.getsize(ROOM / "LICENSE-APACHE-2.0") > 10_000
