"""The shipped judges and the metrics that stand on them."""

from __future__ import annotations

import pytest
import torch

from efface._errors import FormatError, InputError
from efface_worlds import shapes
from efface_worlds.shapes.concepts import FACTORS
from efface_worlds.shapes.corruption import TRAINED, UNSEEN
from efface_worlds.shapes.judge import NOTHING, Verdict
from efface_worlds.shapes.metrics import frechet_distance, kernel_distance, mean_metric
from efface_worlds.shapes.shipped import WEIGHTS
from efface_worlds.shapes.training.measuring import NAMES, answers, attributed, confusion, held_out


@pytest.fixture(scope="module")
def judges():
    return {which: shapes.load_judge(which) for which in (1, 2)}


@pytest.fixture(scope="module")
def worlds():
    return dict(zip((1, 2), held_out(1000, seed=2024), strict=True))


@pytest.fixture(scope="module")
def verdicts(judges, worlds):
    return {(which, n): judges[which].judge(worlds[n].images) for which in judges for n in worlds}


BOTH = [(which, n) for which in (1, 2) for n in (1, 2)]


@pytest.mark.parametrize(("which", "n"), BOTH)
@pytest.mark.parametrize("factor", FACTORS)
def test_judges_are_right_on_fresh_renderings_of_one_and_of_two_objects(verdicts, worlds, which, n, factor):
    # A ring of the size that two have is the same flat and in outline.
    least = 0.94 if (factor, n) == ("style", 2) else 0.98
    assert verdicts[which, n].agrees(worlds[n].scenes)[factor].float().mean() >= least


@pytest.mark.parametrize(("which", "n"), BOTH)
def test_every_concept_is_seen_where_it_is_and_only_there(verdicts, worlds, which, n):
    for name in NAMES:
        seen, false = answers(verdicts[which, n], worlds[n].scenes, name)
        assert seen.float().mean() >= 0.95, name
        assert false.float().mean() <= 0.02, name


@pytest.mark.parametrize("which", [1, 2])
def test_a_red_circle_and_a_blue_star_are_no_red_star(judges, verdicts, worlds, which):
    images = shapes.render(shapes.Scene("circle", "red", second_object="star", second_colour="blue").scenes(20, seed=0))
    says = judges[which].judge(images)
    assert says.words() == ["red flat circle and blue flat star on white"] * 20 or sorted(set(says.words())) == [
        "blue flat star and red flat circle on white",
        "red flat circle and blue flat star on white",
    ]
    assert (says.shows("red") == 1).all() and (says.shows("star") == 1).all()
    assert (says.shows("red", "star") == 0).all() and (judges[which](images, "red star") == 0).all()
    assert (judges[which](images, "red circle") == 1).all() and (judges[which](images, "blue flat star") == 1).all()
    for name in NAMES[:10]:
        own, crossed = attributed(verdicts[which, 2], worlds[2].scenes, name)
        assert own.float().mean() >= 0.95 and crossed.float().mean() <= 0.02, name


@pytest.mark.parametrize("which", [1, 2])
def test_the_same_object_twice_is_seen_and_counted(judges, which):
    for name in ("star", "heart", "circle"):
        images = shapes.render(shapes.Scene(name, "blue", "striped", second_object=name).scenes(30, seed=1))
        verdict = judges[which].judge(images)
        assert (verdict.shows(name, "blue", "striped") == 1).float().mean() >= 0.95
        assert (verdict.count == 2).float().mean() >= 0.95


@pytest.mark.parametrize(("which", "n"), BOTH)
def test_inside_of_its_domain_a_judge_can_say(verdicts, which, n):
    assert (~verdicts[which, n].known).float().mean() <= 0.01


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("name", [*TRAINED, *UNSEEN])
def test_outside_of_its_domain_a_judge_cannot_say(judges, which, name):
    images = shapes.corrupted(100, name, seed=11)
    verdict = judges[which].judge(images)
    assert (~verdict.known).float().mean() > 0.8
    assert torch.equal(judges[which](images, "star").isnan(), ~verdict.known | verdict.shows("star").isnan())


@pytest.mark.parametrize("which", [1, 2])
def test_a_background_alone_shows_no_object(judges, which):
    verdict = judges[which].judge(shapes.corrupted(100, "empty", seed=11))
    assert (verdict.known & (verdict.count == 0)).float().mean() > 0.95
    assert (verdict.shows("star")[verdict.known] == 0).all() and (verdict.shows("flat")[verdict.known] == 0).all()


def test_a_confusion_matrix_counts_every_image_once(verdicts, worlds):
    cells = torch.tensor(confusion(verdicts[1, 1], worlds[1].scenes)["object"])
    assert cells.shape == (10, 11)
    assert torch.equal(cells.sum(1), torch.bincount(worlds[1].scenes.objects[:, 0], minlength=10))


@pytest.mark.parametrize("which", [1, 2])
def test_judges_are_calibrated(verdicts, worlds, which):
    sure, label = verdicts[which, 1].style[:, 0].max(1)
    right = (label == worlds[1].scenes.style).float().mean()
    assert abs(float(sure.mean() - right)) < 0.01


def test_probabilities_sum_to_one_and_name_what_is_shown(judges):
    images = shapes.render(shapes.Scene("heart", "blue", "striped", "mint").scenes(5, seed=0))
    verdict = judges[1].judge(images)
    for name in FACTORS:
        chances = getattr(verdict, name).sum(-1)
        torch.testing.assert_close(chances, torch.ones_like(chances))
    assert verdict.words() == ["blue striped heart on mint"] * 5
    assert (verdict.shows("heart") == 1).all()
    assert (verdict.shows("circle") == 0).all()


def test_a_verdict_does_not_depend_on_the_batch(judges, worlds):
    both = judges[2].judge(worlds[2].images[:30])
    alone = judges[2].judge(worlds[2].images[29:30])
    torch.testing.assert_close(both.object[29:], alone.object)


def verdict_of(*places, domain=0.9):
    """A verdict of one image, from an object, colour and style at each place with their probabilities."""
    sizes = {"object": 11, "colour": 8, "style": 6}
    chances = {f: torch.full((1, 2, size), 0.0) for f, size in sizes.items()}
    for i, place in enumerate(places):
        for factor, (label, sure) in zip(sizes, place, strict=True):
            chances[factor][0, i] = (1 - sure) / (sizes[factor] - 1)
            chances[factor][0, i, label] = sure
    return Verdict(**chances, background=torch.eye(6)[:1], domain=torch.tensor([domain]))


STAR, RING, NONE = 7, 2, NOTHING


def test_what_a_verdict_says():
    both = verdict_of(((STAR, 0.9), (0, 0.9), (0, 0.9)), ((RING, 0.9), (5, 0.9), (1, 0.9)))
    assert both.words() == ["red flat star and blue striped ring on white"] and int(both.count) == 2
    assert [float(both.shows(n)) for n in ("star", "ring", "red", "striped", "white", "heart")] == [1, 1, 1, 1, 1, 0]
    assert float(both.shows("red", "ring")) == 0 and float(both.shows("blue", "striped", "ring")) == 1
    with pytest.raises(InputError, match="needs a name"):
        both.shows()


def test_a_verdict_that_cannot_say_is_neither_yes_nor_no():
    nothing = ((NONE, 0.9), (0, 0.2), (0, 0.2))
    broken = verdict_of(((STAR, 0.9), (0, 0.9), (0, 0.9)), nothing, domain=0.2)
    assert broken.shows("star").isnan() and broken.words() == ["cannot say"]
    between = verdict_of(((STAR, 0.45), (0, 0.9), (0, 0.9)), nothing)  # an object that is none of the ten for sure
    assert not between.known and between.shows("heart").isnan()
    patterned = verdict_of(((STAR, 0.9), (0, 0.9), (1, 0.4)), nothing)
    assert patterned.shows("striped").isnan() and patterned.shows("striped", "star").isnan()
    assert float(patterned.shows("star")) == 1 and float(patterned.shows("striped", "ring")) == 0
    scenes = shapes.Scene("star").scenes(1, seed=0)
    assert not any(bool(hit) for hit in broken.agrees(scenes).values())


def test_agreement_is_of_all_objects():
    one, two = shapes.Scene("star").scenes(1, seed=0), shapes.Scene("star", second_object="ring").scenes(1, seed=0)
    star = ((STAR, 0.9), (0, 0.9), (0, 0.9))
    nothing = ((NONE, 0.9), (0, 0.2), (0, 0.2))
    for verdict, scenes, agrees in (
        (verdict_of(star, nothing), one, (True, True, True)),
        (verdict_of(star, star), one, (False, True, True)),  # twice where it was asked once
        (verdict_of(star, ((RING, 0.9), (5, 0.9), (1, 0.9))), one, (False, False, False)),
        (verdict_of(((RING, 0.9), (0, 0.9), (0, 0.9)), star), two, (True, True, True)),
        (verdict_of(star, nothing), two, (False, True, True)),
        (verdict_of(nothing, nothing), one, (False, False, False)),
    ):
        found = verdict.agrees(scenes)
        assert tuple(bool(found[f]) for f in ("object", "colour", "style")) == agrees
        assert bool(found["background"])


def test_frechet_distance_of_gaussians_is_the_textbook_one():
    x = torch.randn(2000, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The same rows moved by 3 in one coordinate: equal covariances, so the distance is 9.
    assert frechet_distance(x, x + 3 * torch.eye(128)[0]) == pytest.approx(9, rel=1e-3)
    # Twice as wide about the mean: trace(S + 4 S - 4 S) = trace(S).
    centred = x - x.mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(float(centred.var(0).sum()), rel=1e-3)


def test_kernel_distance_is_unbiased_and_agrees_with_its_formula():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(60, 128, generator=generator, dtype=torch.float64) for _ in range(2))

    def kernel(a, b):
        return (a @ b.T / 128 + 1) ** 3

    off = ~torch.eye(60, dtype=torch.bool)
    expected = kernel(x, x)[off].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_metrics_tell_a_shifted_world_from_the_same_one(judges):
    a, b = (shapes.make_shapes(150, seed=seed, two_objects=0.0).images for seed in (1, 2))
    same = shapes.image_metrics(a, b, judge=judges[1])
    dark = shapes.image_metrics(a * 0.5, b, judge=judges[1])
    for name in ("fid", "kid"):
        assert dark[name].value > same[name].high
        assert same[name].n == 150
    assert same["kid"].low < 0 < same["kid"].high


def test_metrics_repeat_by_seed_and_a_pair_of_equals_is_at_no_distance(judges):
    images = shapes.make_shapes(40, seed=1).images
    first, again = (shapes.image_metrics(images, images, judge=judges[1], seed=3, paired=True) for _ in range(2))
    assert first == again
    assert first["lpips"].value == 0.0
    assert first["fid"].value < 1e-3 * frechet_distance(*(judges[1].features(x) for x in (images, images * 0)))


def test_perceptual_distance_grows_with_the_change(judges):
    images = shapes.make_shapes(30, seed=1).images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    near, far = (
        shapes.perceptual_distance((images + s * noise).clamp(0, 1), images, judge=judges[2]) for s in (0.02, 0.3)
    )
    assert (near < far).all()


def test_bootstrap_of_a_mean_has_the_width_of_the_normal_one():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    metric = mean_metric("m", values, 0)
    width = 2 * 1.96 * float(values.std()) / 20
    assert metric.high - metric.low == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(3, 32, 32), r"expected \(n, 3, 32, 32\)"),
        (torch.rand(1, 3, 64, 64), r"expected \(n, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"\.float\(\) / 255"),
        (torch.full((1, 3, 32, 32), -1.0), r"expected \[0, 1\]"),
        (torch.full((1, 3, 32, 32), float("nan")), r"expected \[0, 1\]"),
        (torch.zeros(0, 3, 32, 32), "at least one"),
    ],
)
def test_what_is_no_image_is_refused(judges, images, says):
    with pytest.raises(InputError, match=says):
        judges[1].judge(images)


def test_bad_arguments_say_what_to_write(judges):
    images = torch.rand(25, 3, 32, 32)
    with pytest.raises(InputError, match="1 or 2"):
        shapes.load_judge(3)
    with pytest.raises(InputError, match="at least 20"):
        shapes.image_metrics(images[:3], images, judge=judges[1])
    with pytest.raises(InputError, match="equal numbers"):
        shapes.image_metrics(images, images[:20], judge=judges[1], paired=True)
    with pytest.raises(InputError, match="no concept"):
        judges[1].judge(images).shows("cat")


def copy(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("kept", [0, 7, 500, 100_000])
def test_a_truncated_judge_is_named_with_its_remedy(tmp_path, kept):
    folder = copy(WEIGHTS / "judge1", tmp_path / "judge")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(FormatError, match=r"model\.safetensors is damaged.*reinstall efface.*training judge ship"):
        shapes.load_judge(1, folder=folder)


def test_a_missing_file_and_another_judges_folder_are_refused(tmp_path):
    folder = copy(WEIGHTS / "judge2", tmp_path / "judge")
    with pytest.raises(FormatError, match="another network"):
        shapes.load_judge(1, folder=folder)
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"has no config\.json"):
        shapes.load_judge(2, folder=folder)
