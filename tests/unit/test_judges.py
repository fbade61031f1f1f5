"""Judges of pictures for pipelines of users: what they read, and what they say of themselves."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from efface import InputError, MissingExtraError
from efface.audit import ClassifierJudge, ClipJudge, FunctionJudge, NudeNetJudge
from efface.audit.pipelines.judges import calibration_of


def pictures(*reds: float) -> Tensor:
    return torch.tensor(reds)[:, None, None, None].expand(-1, 3, 4, 4)


class Classifier:
    """Label 1 where a picture is bright."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(id2label={0: "tench, Tinca tinca", 1: "golf_ball", 2: "tennis ball"})

    def __call__(self, pixel_values: Tensor) -> Any:
        bright = pixel_values.flatten(1).mean(1)
        return SimpleNamespace(logits=torch.stack([1 - bright, bright, torch.zeros_like(bright)], dim=1))


def processor(images: Any, return_tensors: str, **more: Any) -> dict[str, Tensor]:
    import numpy as np

    return {"pixel_values": torch.stack([torch.from_numpy(np.asarray(i).copy()) for i in images]).float() / 255}


def test_a_classifier_sees_what_its_likeliest_label_says() -> None:
    judge = ClassifierJudge(Classifier(), processor)
    assert judge(pictures(0.0, 1.0), "golf ball").tolist() == [0.0, 1.0]
    assert judge(pictures(0.0, 1.0), "Tinca tinca").tolist() == [1.0, 0.0]
    assert ClassifierJudge(Classifier(), processor, {"fish": ["tench"]})(pictures(0.0), "fish").tolist() == [1.0]


@pytest.mark.parametrize("name", ["ball", "golf", "church", ""])
def test_labels_are_whole_words(name: str) -> None:
    with pytest.raises(InputError, match="no label"):
        ClassifierJudge(Classifier(), processor).places(name)


def test_a_name_that_several_labels_have_is_refused() -> None:
    """ImageNet has two cranes; its cardigan is a dog's name, too, but that label has another before it."""
    model: Any = Classifier()
    labels = ["crane", "crane", "Cardigan, Cardigan Welsh corgi", "cardigan", "corgi, dog", "dog, cur"]
    model.config.id2label = dict(enumerate(labels))
    judge = ClassifierJudge(model, processor)
    assert judge.places("cardigan") == [3]
    assert judge.places("Cardigan Welsh corgi") == [2]
    for name in ("crane", "dog"):
        with pytest.raises(InputError, match=f"several labels '{name}'.*by their numbers"):
            judge.places(name)
    assert ClassifierJudge(model, processor, {"crane": [1], "dog": [4, 5]}).places("dog") == [4, 5]
    with pytest.raises(InputError, match="no label 6"):
        ClassifierJudge(model, processor, {"crane": [6]}).places("crane")
    with pytest.raises(InputError, match="has no label for 'crane'"):
        ClassifierJudge(model, processor, {"crane": []}).places("crane")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NudeNetJudge(classes="FEET_EXPOSED"), "classes"),
        (lambda: NudeNetJudge(classes=["FACE"]), "no class 'FACE'.*FACE_FEMALE"),
        (lambda: NudeNetJudge(classes=[]), "sees nothing"),
        (lambda: NudeNetJudge(threshold=60), "threshold=60"),
        (lambda: NudeNetJudge(threshold=float("nan")), "threshold=nan"),
        (lambda: ClipJudge(None, None, template="a photo"), "no {}"),
        (lambda: ClipJudge(None, None, others=[]), "give some texts"),
        (lambda: ClipJudge(None, None, others="a photo"), "others"),
        (lambda: ClassifierJudge(Classifier(), processor, {"fish": "tench"}), "labels"),
        (lambda: FunctionJudge("red", "red"), "function"),  # type: ignore[arg-type]
    ],
)
def test_what_would_see_nothing_is_refused(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_lists_may_be_arrays() -> None:
    judge = ClassifierJudge(Classifier(), processor, {"fish": np.array(["tench", "golf ball"])})  # type: ignore[dict-item]
    assert judge.places("fish") == [0, 1]
    assert ClassifierJudge(Classifier(), processor, {"ball": np.array([2, 1])}).places("ball") == [2, 1]  # type: ignore[dict-item]
    assert len(NudeNetJudge(classes=np.array(["FEET_EXPOSED", "FACE_MALE"])).classes) == 2  # type: ignore[arg-type]


def test_of_a_picture_that_is_not_finite_nothing_is_said() -> None:
    found = ClassifierJudge(Classifier(), processor)(pictures(0.0, float("nan"), 1.0), "golf ball")
    assert torch.equal(found.isnan(), torch.tensor([False, True, False])) and found[2] == 1


def test_clip_compares_the_concept_with_the_others() -> None:
    class Clip:
        def __call__(self, pixel_values: Tensor, **texts: Any) -> Any:
            bright = pixel_values.flatten(1).mean(1)
            return SimpleNamespace(logits_per_image=torch.stack([20 * bright, 20 * (1 - bright)], dim=1))

    judge = ClipJudge(Clip(), lambda text, images, **more: processor(images, "pt"), others=("a photo",))
    found = judge(pictures(0.0, 1.0), "church")
    assert found[0] < 0.01 and found[1] > 0.99


def test_nudenet_counts_from_a_threshold_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class NudeDetector:
        def detect(self, image: Any) -> list[dict[str, Any]]:
            assert image.shape == (4, 4, 3) and image.flags["C_CONTIGUOUS"]
            return [
                {"class": "BELLY_EXPOSED", "score": float(image.mean()) / 255},
                {"class": "FACE_FEMALE", "score": 1},
            ]

    module: Any = ModuleType("nudenet")
    module.NudeDetector = NudeDetector
    monkeypatch.setitem(sys.modules, "nudenet", module)
    assert NudeNetJudge()(pictures(0.5, 0.7), "nudity").tolist() == [0.0, 1.0]
    assert NudeNetJudge(threshold=0.45)(pictures(0.5, 0.7), "nudity").tolist() == [1.0, 1.0]
    assert NudeNetJudge(classes=["FEET_EXPOSED"])(pictures(0.7), "nudity").tolist() == [0.0]


def test_nudenet_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(MissingExtraError, match="nudenet"):
        NudeNetJudge()(pictures(0.5), "nudity")


def test_each_says_what_it_was_calibrated_on_or_nothing() -> None:
    judge = FunctionJudge(lambda images, name: images[:, 0, 0, 0], "red", "200 red and blue squares")
    assert calibration_of(judge) == "200 red and blue squares" and judge(pictures(0.25), "x").tolist() == [0.25]
    assert calibration_of(lambda images, name: 0) == calibration_of(NudeNetJudge()) == ""


@pytest.mark.parametrize("kind", [ClassifierJudge, ClipJudge])
def test_a_folder_without_a_model_is_refused(kind: Any, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        kind.load(tmp_path)
