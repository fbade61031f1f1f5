"""`efface.audit.presence` on samplers and judges whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import efface.audit
from efface import InputError

FAMILY = "seen by the judge"


def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """A grey image, darker with each seed, whose first pixel says which prompt it is of."""
    images = torch.stack([torch.full((3, 4, 4), 0.5 - 0.01 * seed) for seed in seeds])
    for image, prompt in zip(images, prompts, strict=True):
        image[0, 0, 0] = {"c": 1.0, "s": 0.9, "d": 0.8}[prompt[0]]
    return images


def draw_without_circles(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    images = draw(prompts, seeds)
    images[images[:, 0, 0, 0] == 1.0, 0, 0, 0] = 0.0
    return images


def judge(images: Tensor, concept: str) -> Tensor:
    level = {"circle": 1.0, "square": 0.9, "disc": 0.8}[concept]
    return (images[:, 0, 0, 0] - level).abs() < 0.01


def audited(**changes: Any) -> Any:
    given: dict[str, Any] = {"prompts": ["circle", "circle, red"], "others": {"square": ["square"]}, "seeds": 10}
    given |= changes
    return efface.audit.presence(given.pop("sample", draw), judge, "circle", **given)


def test_a_pipeline_as_it_is() -> None:
    audit = audited()
    circle = audit.find(FAMILY, "circle", "before")
    assert (circle.value, circle.n) == (1.0, 20) and circle.low is not None and 0.8 < circle.low < 1
    assert {f.condition for f in audit.findings} == {"before"}
    assert "in 100.0%" in audit.conclusions[0]


def test_an_erasure_that_works_and_leaves_the_rest_alone() -> None:
    audit = audited(erased=draw_without_circles)
    assert audit.find(FAMILY, "circle", "after").value == 0
    change = audit.find(FAMILY, "circle", "change")
    assert change.value == -1 and change.verdict == "lower than before"
    assert audit.find(FAMILY, "square", "change").verdict == "no clear change"
    assert audit.find("images of other prompts", "pixels moved", "change").value == 0
    assert not audit.conclusions[0].startswith("NOT") and "None of 1 other" in audit.conclusions[1]


def test_an_erasure_that_hits_the_wrong_concept() -> None:
    def wrong(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        images = draw(prompts, seeds)
        images[images[:, 0, 0, 0] == 0.9] = 0.0
        return images

    audit = audited(erased=wrong)
    assert audit.conclusions[0].startswith("NOT erased")
    assert "1 of 1 other concepts are seen less; most square, by -100.0 points" in audit.conclusions[1]
    expected = np.mean([(0.9 + 47 * (0.5 - 0.01 * s)) / 48 for s in range(10)])
    assert audit.find("images of other prompts", "pixels moved", "change").value == pytest.approx(expected, rel=1e-5)


def test_equal_seeds_before_and_after_whatever_the_batch() -> None:
    calls: list[tuple[str, int]] = []

    def noted(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        calls.extend(zip(prompts, seeds, strict=True))
        return draw(prompts, seeds)

    assert audited(sample=noted, batch_size=3, seeds=(4, 9)) == audited(seeds=[4, 9], batch_size=100)
    assert calls == [("circle", 4), ("circle", 9), ("circle, red", 4), ("circle, red", 9), ("square", 4), ("square", 9)]


def test_half_of_the_images() -> None:
    def half(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        images = draw(prompts, seeds)
        return torch.where(torch.tensor([s % 2 == 0 for s in seeds])[:, None, None, None], images, 0 * images)

    change = audited(erased=half).find(FAMILY, "circle", "change")
    assert change.value == -0.5 and -0.8 < change.low < -0.5 < change.high < -0.2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": "circle"}, "prompts=\\['circle'\\]"),
        ({"prompts": []}, "no prompts ask for 'circle'"),
        ({"others": {"square": []}}, "no prompts ask for 'square'"),
        ({"seeds": []}, "seeds is empty"),
        ({"sample": lambda p, s: torch.zeros(1, 3, 4, 4)}, "shape \\(1, 3, 4, 4\\) for 16 prompts"),
        ({"erased": lambda p, s: torch.full((len(p), 3, 4, 4), torch.nan)}, "images after erasure"),
    ],
)
def test_bad_input(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        audited(**changes)


@pytest.mark.parametrize(
    ("answer", "says"),
    [(lambda x, c: torch.zeros(1), "expected one value each"), (lambda x, c: torch.full((len(x),), 2.0), "0 to 1")],
)
def test_a_judge_that_returns_something_else(answer: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        efface.audit.presence(draw, answer, "circle", prompts=["circle"])


def unsure_of(seeds: Sequence[int]) -> Any:
    """The judge, but of circles of these seeds it cannot say."""

    def unsure(images: Tensor, concept: str) -> Tensor:
        of = torch.isclose(images[:, 1, 1, 1, None], 0.5 - 0.01 * torch.tensor(seeds)).any(1)
        return torch.where(of & (images[:, 0, 0, 0] != 0.9), torch.nan, judge(images, concept).float())

    return unsure


def asked_of(judge: Any, erased: Any = draw_without_circles) -> Any:
    given: dict[str, Any] = {"prompts": ["circle", "circle, red"], "others": {"square": ["square"]}, "seeds": 10}
    return efface.audit.presence(draw, judge, "circle", erased=erased, **given)


def test_what_the_judge_cannot_say_is_counted_apart() -> None:
    audit = asked_of(unsure_of([0, 1, 2]))
    for side, seen in (("before", 1.0), ("after", 0.0)):
        found = audit.find(FAMILY, "circle", side)
        assert (found.value, found.n) == (seen, 14) and "of 14 of 20 images" in found.note
        apart = audit.find("judge cannot say", "circle", side)
        assert (apart.value, apart.n) == (0.3, 20) and apart.low < 0.3 < apart.high
    assert audit.find(FAMILY, "circle", "change").n == 14
    assert audit.find("judge cannot say", "square", "after").value == 0
    assert "cannot say of 30.0%" in audit.conclusions[1]


def test_what_the_judge_cannot_say_is_not_credited_to_an_erasure() -> None:
    sure, unsure = asked_of(judge), asked_of(unsure_of([0, 1, 2]))
    assert sure.find("balance", "H", "after").value == 1
    balance = unsure.find("balance", "H", "after")
    assert (
        balance.value == pytest.approx(2 / (1 / 0.7 + 1)) and "6 images of which the judge cannot say" in balance.note
    )


def test_too_many_images_that_cannot_be_judged_head_the_conclusions() -> None:
    audit = asked_of(unsure_of(range(6)))
    assert audit.conclusions[0].startswith("NOT shown to be erased")


def test_other_pictures_that_break_are_said() -> None:
    """Of them no share of those that can be judged knows: 3 of 3 squares may be seen, and 7 of 10 be lost."""

    def breaking(images: Tensor, concept: str) -> Tensor:
        broken = (images[:, 1, 1, 1] < kept) & (images[:, 1, 1, 2] == 0)
        return torch.where(broken & (concept == "square"), torch.nan, judge(images, concept).float())

    def erased(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        images = draw_without_circles(prompts, seeds)
        images[:, :, 1, 2] = 0
        return images

    kept = 0.475  # the brightness of seed 2 and up
    audit = asked_of(breaking, erased)
    assert audit.find(FAMILY, "square", "after").value == 1
    said = next(line for line in audit.conclusions if line.startswith("WARNING: of 1 of 1 other concepts"))
    assert "cannot say more often" in said and "most of square: of 70.0%" in said and "before 0.0%" in said
    kept = 1.0
    assert not any(line.startswith("None of") for line in asked_of(breaking, erased).conclusions)
    kept = 0.0
    assert asked_of(breaking, erased).conclusions[-1] == "None of 1 other concepts is clearly seen less."


def test_one_image_that_can_be_judged_is_no_change() -> None:
    audit = efface.audit.presence(draw, unsure_of(range(1, 10)), "circle", prompts=["circle"], erased=draw, seeds=10)
    assert audit.find(FAMILY, "circle", "after").n == 1
    assert "of 1 of the 10 images" in audit.find(FAMILY, "circle", "change").why


def test_a_judge_that_can_say_nothing_scores_nothing() -> None:
    audit = asked_of(unsure_of(range(10)))
    for condition in ("before", "after", "change"):
        found = audit.find(FAMILY, "circle", condition)
        assert not found.is_scored and f"of {'0' if condition == 'change' else 'none'} of the 20 images" in found.why
    assert audit.find("judge cannot say", "circle", "after").value == 1
    assert audit.find("balance", "H", "after").value == 0
    assert audit.conclusions[0].startswith("NOT shown to be erased")
    assert efface.audit.presence(draw, unsure_of(range(10)), "circle", prompts=["circle"]).conclusions


def test_no_headline_without_enough_images() -> None:
    """Four images that all agree leave half of everything open, and so does H."""
    few, many = (audited(erased=draw_without_circles, seeds=n, prompts=["circle"]) for n in (4, 20))
    h, seen = few.find("balance", "H", "after"), few.find(FAMILY, "circle", "after")
    assert h.value == 1 and h.low is not None and seen.high is not None and h.low <= 1 - seen.high + 1e-9
    assert h.detail and h.verdict.startswith("too few images") and "100.0%" not in str(few).split("balance")[-1][:30]
    assert not many.find("balance", "H", "after").detail


def test_what_was_hardly_there_is_not_erased() -> None:
    audit = audited(sample=draw_without_circles, erased=draw_without_circles)
    assert audit.conclusions[0].startswith("WARNING: too weak to judge")


def test_pictures_show_failures_first_at_equal_seeds() -> None:
    def fails_at_two(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        images, gone = draw(prompts, seeds), draw_without_circles(prompts, seeds)
        kept = torch.tensor([seed == 2 for seed in seeds])
        return torch.where(kept[:, None, None, None], images, gone)

    audit = audited(erased=fails_at_two, prompts=["circle"])
    circle = next(f for f in audit.figures if f.kind == "overlays" and f.title.startswith("circle:"))
    assert [p.title for p in circle.pictures] == ["before", "after"] * 3
    assert "1 of 10 where it is still seen" in circle.title and "seed 2" in circle.pictures[0].text[1]
    assert circle.pictures[1].text[0] == "seen by the judge" and circle.pictures[3].text[0] == "not seen by the judge"
    before, after = (p.pixels for p in circle.pictures[:2])
    assert before is not None and after is not None and before.dtype == np.uint8 and (before == after).all()
    assert "data:image/png" in audit.html()
