"""The judges of the emoji world: the two that were trained, and the nearest drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import efface_worlds.emoji as emoji
from efface._errors import FormatError, InputError
from efface_worlds.emoji.concepts import CONCEPTS, STYLES, TONES, index_of
from efface_worlds.emoji.corruption import TRAINED, UNSEEN
from efface_worlds.emoji.judge import Judge, Verdict, spoken
from efface_worlds.emoji.networks import HEADS, NETWORKS, NOTHING, TONELESS
from efface_worlds.emoji.scenes import NONE, Scenes
from efface_worlds.emoji.shipped import WEIGHTS
from efface_worlds.emoji.training.judges import Truth, labelled_batch, truth_of
from efface_worlds.emoji.training.measuring import KINDS, confusions, drawn_alike, held_out, shares
from efface_worlds.loading import check_files

BOTH = tuple(NETWORKS)
SEED = 7_331
FLOORS = {"large": (0.975, 0.94), "small": (0.945, 0.82), "two": (0.965, 0.91)}
"""Least top-1 of each object, and share of right styles, on 400 renderings; training.json has figures."""


@pytest.fixture(scope="module")
def judges() -> dict[int, Judge]:
    return {which: emoji.load_judge(which) for which in BOTH}


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scenes]:
    rows = torch.randperm(4 * len(CONCEPTS), generator=torch.Generator().manual_seed(SEED))[:400]
    return {kind: held_out(kind, seed=SEED)[rows] for kind in KINDS}


@pytest.fixture(scope="module")
def verdicts(judges: dict[int, Judge], scenes: dict[str, Scenes]) -> dict[tuple[int, str], Verdict]:
    drawn = {kind: emoji.render(each) for kind, each in scenes.items()}
    return {(which, kind): judge.judge(x) for which, judge in judges.items() for kind, x in drawn.items()}


def told(objects: dict[str, float], second: dict[str, float] | None = None, *, domain: float = 1.0) -> Verdict:
    """A verdict on one picture: chances of names at the left and the right place; "none" is nothing there."""

    def chances(values: dict[str, float]) -> torch.Tensor:
        found = torch.zeros(len(CONCEPTS) + 1)
        for name, chance in values.items():
            found[NOTHING if name == "none" else index_of(name)] = chance
        return found

    both = torch.stack([chances(objects), chances({"none": 1.0} if second is None else second)])
    tone = torch.eye(len(TONES) + 1)[TONELESS].expand(1, 2, -1)
    return Verdict(both[None], tone, torch.eye(4)[:1], torch.eye(8)[:1], torch.tensor([domain]))


class TestAnswers:
    """What follows from probabilities; no trained network is asked."""

    def test_a_concept_is_there_not_there_or_cannot_be_said(self) -> None:
        verdict = told({"cat": 0.9, "dog": 0.1})
        assert float(verdict.shows("cat")) == 1
        assert float(verdict.shows("dog")) == 0
        between = told({"cat": 0.5, "dog": 0.5})
        assert bool(between.known)
        assert between.shows("cat").isnan()
        assert float(between.shows("animal-mammal")) == 1
        assert float(between.shows("banana")) == 0

    def test_a_subgroup_a_group_or_a_profession_is_the_sum_of_its_own(self) -> None:
        verdict = told({"pilot": 0.35, "woman pilot": 0.35, "man pilot": 0.3})
        assert verdict.shows("pilot").isnan()
        assert float(verdict.shows("profession:pilot")) == 1
        assert float(verdict.shows("people-body")) == 1
        assert float(verdict.shows("food-drink")) == 0
        subgroup = list(emoji.subgroups()).index(emoji.concept("pilot").subgroup)
        assert float(verdict.subgroup[0, 0, subgroup]) == pytest.approx(1)

    def test_several_names_are_asked_of_one_object(self) -> None:
        verdict = told({"cat": 1.0}, {"pilot": 1.0})
        assert verdict.words() == ["cat and pilot, noto, on white"]
        assert int(verdict.count) == 2
        assert [float(verdict.shows(*names)) for names in (("cat", "noto"), ("pilot", "white"))] == [1, 1]
        assert [float(verdict.shows(*names)) for names in (("cat", "pilot"), ("cat", "twemoji"))] == [0, 0]
        assert float(verdict.shows("cat", "dark skin")) == 0
        with pytest.raises(InputError, match="needs a name"):
            verdict.shows()

    def test_nothing_shows_neither_style_nor_tone_but_its_ground(self) -> None:
        empty = told({"none": 1.0})
        assert int(empty.count) == 0
        assert empty.words() == ["nothing on white"]
        assert [float(empty.shows(name)) for name in ("cat", "noto", "dark skin", "white")] == [0, 0, 0, 1]

    @pytest.mark.parametrize("verdict", [told({"cat": 1.0}, domain=0.4), told({"cat": 0.4, "banana": 0.3, "car": 0.3})])
    def test_what_is_not_known_is_not_said(self, verdict: Verdict) -> None:
        assert not bool(verdict.known)
        assert verdict.words() == ["cannot say"]
        assert all(verdict.shows(name).isnan() for name in ("cat", "noto", "white", "animals-nature"))

    def test_agreement_is_by_factor(self) -> None:
        scene = held_out("large")[torch.tensor([index_of("cat")])]
        agrees = told({"cat": 1.0}).agrees(scene)
        assert bool(agrees["object"] & agrees["subgroup"] & agrees["style"] & agrees["tone"])
        agrees = told({"dog": 1.0}).agrees(scene)
        assert not bool(agrees["object"])
        assert bool(agrees["subgroup"])
        assert not any(bool(hit) for hit in told({"cat": 1.0}, domain=0.0).agrees(scene).values())
        pilot = held_out("large")[torch.tensor([index_of("pilot")])]
        assert bool(told({"pilot": 1.0}).agrees(pilot)["tone"]) == (int(pilot.tones[0, 0]) == NONE)

    def test_phrases_are_read_longest_name_first(self) -> None:
        assert spoken("black and white hot dog") == ("black and white", "hot dog")
        assert spoken("twemoji cat") == ("twemoji", "cat")
        assert spoken("profession:pilot") == ("profession:pilot",)
        for name in [word for values in emoji.FACTORS.values() for c in values for word in c.words]:
            assert spoken(name) == (name,)
        with pytest.raises(InputError, match="'caat'.*cat"):
            spoken("twemoji caat")


class TestTrained:
    @pytest.mark.parametrize("which", BOTH)
    def test_every_head_is_right_on_fresh_renderings(self, verdicts, scenes, which: int) -> None:
        for kind, (least, style) in FLOORS.items():
            found = shares(verdicts[which, kind], scenes[kind])
            assert found["top1"] >= least, (kind, found)
            assert min(found["top5"], 0.05 + found["subgroup"]) >= least + (1 - least) / 2, (kind, found)
            assert min(found["background"], found["count"]) >= 0.97, (kind, found)
            assert found["style"] >= style, (kind, found)
            assert found["cannot_say"] <= 0.15, (kind, found)

    @pytest.mark.parametrize("which", BOTH)
    def test_each_of_two_is_seen_at_its_place(self, verdicts, scenes, which: int) -> None:
        truth = truth_of(scenes["two"])
        right = verdicts[which, "two"].object.argmax(-1) == truth.object
        assert right.float().mean(0).min() >= FLOORS["two"][0] - 0.03

    @pytest.mark.parametrize("which", BOTH)
    def test_it_cannot_say_outside_of_its_domain(self, judges, which: int) -> None:
        shares = {name: ~judges[which].judge(emoji.corrupted(60, name, seed=11)).known for name in (*TRAINED, *UNSEEN)}
        said = {name: float(each.float().mean()) for name, each in shares.items()}
        assert min(said[name] for name in TRAINED) >= 0.7, said
        assert min(said[name] for name in UNSEEN if name != "bands") >= 0.35, said  # bands still look like emoji
        noise = torch.rand(20, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        assert judges[which](noise, "cat").isnan().all()

    @pytest.mark.parametrize("which", BOTH)
    def test_an_empty_ground_shows_nothing(self, judges, which: int) -> None:
        verdict = judges[which].judge(emoji.corrupted(60, "empty", seed=11))
        assert (verdict.known & (verdict.count == 0)).float().mean() >= 0.9

    @pytest.mark.parametrize("which", BOTH)
    def test_it_is_asked_by_name_as_audits_do(self, judges, scenes, verdicts, which: int) -> None:
        pictures = emoji.render(scenes["large"][:40])
        verdict = verdicts[which, "large"][:40]
        style = STYLES[0].name
        name = CONCEPTS[int(scenes["large"].objects[0, 0])].name
        for asked in (name, style, "animal-mammal", "food-drink", "light skin", "white"):
            answers = judges[which](pictures, asked)
            assert answers.shape == (40,)
            torch.testing.assert_close(answers, verdict.shows(asked), equal_nan=True)
        torch.testing.assert_close(
            judges[which](pictures, f"{style} {name}"), verdict.shows(style, name), equal_nan=True
        )

    @pytest.mark.parametrize("which", BOTH)
    def test_answers_do_not_depend_on_the_batch(self, judges, scenes, verdicts, which: int) -> None:
        alone = judges[which].judge(emoji.render(scenes["two"])[17:18])
        for name, value in vars(alone).items():
            torch.testing.assert_close(value, getattr(verdicts[which, "two"], name)[17:18], atol=1e-4, rtol=1e-3)

    def test_the_two_are_of_different_build_and_small(self, judges) -> None:
        kinds = {which: {type(m) for m in build().modules()} for which, build in NETWORKS.items()}
        assert torch.nn.BatchNorm2d in kinds[1] - kinds[2]
        assert torch.nn.GroupNorm in kinds[2] - kinds[1]
        for which in judges:
            assert (WEIGHTS / f"judge{which}" / "model.safetensors").stat().st_size <= 2.6e6
            assert judges[which].features(torch.rand(2, 3, 48, 48)).shape == (2, judges[which].network.width)


class TestNearest:
    def test_the_nearest_drawing_is_right_of_large_objects(self, scenes) -> None:
        chosen = scenes["large"][scenes["large"].background == 1]  # one of eight grounds, for time
        found = emoji.NearestJudge().judge(emoji.render(chosen))
        own = chosen.objects[:, :1]
        assert (found.object[:, :1] == own).float().mean() >= 0.97
        assert (found.object == own).any(1).float().mean() >= 0.99
        assert (found.background == chosen.background).all()
        assert found.known.float().mean() >= 0.97
        assert (found.style == chosen.style).float().mean() >= 0.98

    def test_it_answers_by_name_as_the_others_do(self) -> None:
        scene = held_out("large", seed=5)[torch.tensor([index_of("cat"), index_of("banana")])]
        scene.background[:] = 1
        pictures, judge = emoji.render(scene), emoji.NearestJudge()
        assert judge(pictures, "cat").tolist() == [1, 0]
        assert judge(pictures, "noto animal-mammal").tolist() == [1, 0]
        assert judge(pictures, "food-drink").tolist() == [0, 1]
        noise = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        assert judge(noise, "cat").isnan().all()


class TestTraining:
    def test_truth_is_left_to_right_and_marks_what_is_outside(self) -> None:
        pictures, truth = labelled_batch(60, torch.Generator().manual_seed(3), None)
        assert pictures.shape == (60, 3, 48, 48)
        assert float(pictures.min()) >= 0
        assert float(pictures.max()) <= 1
        assert int((~truth.inside).sum()) == 10
        pair = held_out("two")[:50]
        known = truth_of(pair)
        left = pair.places[..., 0].argmin(1, keepdim=True)
        assert torch.equal(known.object[:, :1], pair.objects.gather(1, left))
        assert isinstance(known, Truth)
        assert (known.count == 2).all()

    def test_held_out_shows_every_concept_in_every_style(self) -> None:
        scenes = held_out("large")
        pairs = set(zip(scenes.objects[:, 0].tolist(), scenes.style.tolist(), strict=True))
        assert len(pairs) == len(scenes) == len(CONCEPTS) * len(STYLES)
        assert not torch.equal(scenes.places, held_out("large", seed=SEED).places)

    def test_confusions_are_counted(self) -> None:
        scenes = held_out("large")[torch.tensor([index_of("cat"), index_of("dog")])]
        verdict = told({"cat": 1.0})
        both = Verdict(*(torch.cat([value, value]) for value in vars(verdict).values()))
        assert confusions(both, scenes) == [{"style": "noto", "shown": "dog", "said": "cat", "times": 1, "of": 1}]

    def test_three_astronauts_of_one_designer_are_one_picture(self) -> None:
        alike = drawn_alike()
        assert ("astronaut", "woman astronaut", "man astronaut") in alike["noto"]
        assert set(alike) == {value.name for value in STYLES}

    @pytest.mark.parametrize("which", BOTH)
    def test_places_of_a_network_are_distributions(self, which: int) -> None:
        network = NETWORKS[which]().eval()
        found = network(torch.rand(3, 3, 48, 48))
        assert {name: value.shape[-1] for name, value in found.items() if name != "domain"} == {
            name: size for name, size in HEADS.items() if name != "domain"
        }
        torch.testing.assert_close(found["object"].exp().sum(-1), torch.ones(3, 2))
        torch.testing.assert_close(found["tone"].exp().sum(-1), torch.ones(3, 2))


class TestRefusals:
    @pytest.mark.parametrize(
        ("images", "says"),
        [
            (torch.rand(3, 48, 48), r"expected \(n, 3, 48, 48\)"),
            (torch.rand(1, 3, 32, 32), r"expected \(n, 3, 48, 48\)"),
            (torch.zeros(1, 3, 48, 48, dtype=torch.uint8), r"\.float\(\) / 255"),
            (torch.full((1, 3, 48, 48), -1.0), r"expected \[0, 1\]"),
            (torch.full((1, 3, 48, 48), float("nan")), r"expected \[0, 1\]"),
            (torch.zeros(0, 3, 48, 48), "at least one"),
        ],
    )
    def test_what_is_no_picture_is_refused(self, images: torch.Tensor, says: str) -> None:
        for judge in (Judge(NETWORKS[1]().eval()), emoji.NearestJudge()):
            with pytest.raises(InputError, match=says):
                judge(images, "cat")

    def test_bad_arguments_say_what_to_write(self) -> None:
        with pytest.raises(InputError, match="1 or 2"):
            emoji.load_judge(3)
        with pytest.raises(InputError, match="no concept"):
            told({"cat": 1.0}).shows("unicorns of the sea")

    def test_a_config_of_lists_in_lists_is_damage(self, tmp_path: Path) -> None:
        folder = copied(WEIGHTS / "judge1", tmp_path / "judge")
        (folder / "config.json").write_text("[" * 100_000, encoding="utf-8")
        with pytest.raises(FormatError, match=r"config\.json is damaged, no JSON"):
            check_files(folder, ["config.json"], "reinstall")

    @pytest.mark.parametrize("kept", [0, 7, 500, 100_000])
    def test_a_truncated_judge_is_named_with_its_remedy(self, tmp_path: Path, kept: int) -> None:
        folder = copied(WEIGHTS / "judge1", tmp_path / "judge")
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(FormatError, match=r"model\.safetensors is damaged.*reinstall.*emoji\.training judge ship"):
            emoji.load_judge(1, folder=folder)

    def test_a_missing_file_and_another_judges_folder_are_refused(self, tmp_path: Path) -> None:
        folder = copied(WEIGHTS / "judge1", tmp_path / "judge")
        with pytest.raises(FormatError, match="another network"):
            emoji.load_judge(2, folder=folder)
        (folder / "config.json").unlink()
        with pytest.raises(FormatError, match=r"has no config\.json.*judge ship"):
            emoji.load_judge(1, folder=folder)


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
