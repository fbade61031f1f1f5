"""The shipped judges and the metrics that stand on them."""

from __future__ import annotations

import pytest
import torch

from efface._errors import FormatError, InputError
from efface_worlds import shapes
from efface_worlds.shapes.corruption import TRAINED
from efface_worlds.shapes.judge import NOTHING
from efface_worlds.shapes.metrics import frechet_distance, kernel_distance, mean_metric
from efface_worlds.shapes.shipped import WEIGHTS
from efface_worlds.shapes.training.measuring import confusion


@pytest.fixture(scope="module")
def judges():
    return {which: shapes.load_judge(which) for which in (1, 2)}


@pytest.fixture(scope="module")
def world():
    return shapes.make_shapes(1000, seed=2024, split="test", two_objects=0.0, balanced=True)


@pytest.fixture(scope="module")
def verdicts(judges, world):
    return {which: judge.judge(world.images) for which, judge in judges.items()}


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("factor", ["object", "colour", "style", "background"])
def test_judges_are_right_on_fresh_renderings(verdicts, world, which, factor):
    assert verdicts[which].agrees(world.scenes)[factor].float().mean() >= 0.985  # .99 less a binomial error


def test_a_confusion_matrix_counts_every_image_once(verdicts, world):
    cells = torch.tensor(confusion(verdicts[1], world.scenes)["object"])
    assert cells.shape == (10, 11)
    assert torch.equal(cells.sum(1), torch.bincount(world.scenes.objects[:, 0], minlength=10))
    assert cells.diagonal().sum() == verdicts[1].agrees(world.scenes)["object"].sum()


@pytest.mark.parametrize("which", [1, 2])
def test_judges_are_calibrated(verdicts, world, which):
    sure, label = verdicts[which].style.max(1)
    right = (label == world.scenes.style).float().mean()
    assert abs(float(sure.mean() - right)) < 0.01


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("name", TRAINED)
def test_images_of_nothing_are_called_none(judges, which, name):
    objects = judges[which].judge(shapes.corrupted(100, name, seed=11)).object.argmax(1)
    assert (objects == NOTHING).float().mean() > 0.8


def test_one_object_is_told_from_two(judges):
    pairs = shapes.make_shapes(200, seed=6, two_objects=1.0)
    verdict = judges[1].judge(pairs.images)
    assert (verdict.count.argmax(1) == 1).float().mean() > 0.99
    assert verdict.agrees(pairs.scenes)["object"].float().mean() > 0.75


def test_probabilities_sum_to_one_and_name_what_is_shown(judges):
    images = shapes.render(shapes.Scene("heart", "blue", "striped", "mint").scenes(5, seed=0))
    verdict = judges[1].judge(images)
    for name in ("object", "colour", "style", "background", "count"):
        torch.testing.assert_close(getattr(verdict, name).sum(1), torch.ones(5))
    assert verdict.words() == [{"object": "heart", "colour": "blue", "style": "striped", "background": "mint"}] * 5
    assert verdict.shows("heart").all()
    assert not verdict.shows("circle").any()


def test_a_verdict_does_not_depend_on_the_batch(judges, world):
    both = judges[2].judge(world.images[:30])
    alone = judges[2].judge(world.images[29:30])
    torch.testing.assert_close(both.object[29:], alone.object)


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
