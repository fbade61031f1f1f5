"""The training loop of the shapes world: an interrupted run ends with the bits of one that was not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from efface._errors import FormatError, InputError
from efface_worlds.shapes.networks import HEADS
from efface_worlds.shapes.scenes import sample_scenes
from efface_worlds.shapes.shipped import load_contrast, load_judge, load_shapes_pipeline
from efface_worlds.shapes.training import stages
from efface_worlds.shapes.training.autoencoder import RECIPE as VAE
from efface_worlds.shapes.training.autoencoder import train_autoencoder
from efface_worlds.shapes.training.denoiser import RECIPE as UNET
from efface_worlds.shapes.training.denoiser import build_denoiser, train_denoiser
from efface_worlds.shapes.training.judges import RECIPES, labelled_batch, train_judge
from efface_worlds.shapes.training.latents import LatentSet
from efface_worlds.shapes.training.loop import Recipe, train
from efface_worlds.shapes.training.stages import run_stage, ship
from efface_worlds.shapes.training.text import TOWER, train_tower


def latents(n: int = 8) -> LatentSet:
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(n, generator=generator)
    texts = torch.randint(0, 5, (n, 2), generator=generator)
    return LatentSet(torch.randn(n, 4, 16, 16, generator=generator), texts, torch.randn(5, 24, 128).half(), scenes)


DATA = latents()
TRAINERS = {
    "unet": lambda folder, **o: train_denoiser(DATA, folder, replace(UNET, steps=3, batch=2), **o),
    "vae": lambda folder, **o: train_autoencoder(folder, replace(VAE, steps=3, batch=2), **o),
}


@pytest.mark.parametrize("stage", TRAINERS)
def test_a_stopped_run_goes_on_bit_for_bit(stage, tmp_path):
    whole, facts = TRAINERS[stage](tmp_path / "whole")
    TRAINERS[stage](tmp_path / "stopped", stop_after=1)
    resumed, _ = TRAINERS[stage](tmp_path / "stopped")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert facts["recipe"]["steps"] == 3
    assert facts["cpu_seconds"] > 0


def test_three_steps_change_the_weights_and_another_seed_changes_them_otherwise(tmp_path):
    recipe = replace(UNET, steps=3, batch=2)
    a, _ = train_denoiser(DATA, tmp_path / "a", recipe)
    b, _ = train_denoiser(DATA, tmp_path / "b", replace(recipe, seed=1))
    assert not torch.equal(a.conv_in.weight, b.conv_in.weight)


def test_the_loop_reaches_the_least_squares_solution(tmp_path):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    torch.manual_seed(0)
    net = nn.Linear(3, 1, bias=False)
    recipe = Recipe("line", steps=400, batch=64, learning_rate=0.1, weight_decay=0.0)
    train(net, lambda step: (net(x) - y).square().mean(), recipe, tmp_path)
    torch.testing.assert_close(net.weight.detach(), torch.tensor([[1.0, -2.0, 0.5]]), rtol=0, atol=1e-3)


def test_learning_rate_warms_up_stays_flat_and_ends_at_nothing():
    recipe = Recipe("r", steps=1000, batch=1, learning_rate=1.0, flat_until=0.5, warmup=100)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(100) == recipe.rate(499) == 1.0
    assert recipe.rate(750) == pytest.approx(0.5)
    assert recipe.rate(1000) == pytest.approx(0.0)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    recipe = replace(UNET, steps=2, batch=2)
    train_denoiser(DATA, tmp_path, recipe, stop_after=1)
    with pytest.raises(InputError, match="another recipe"):
        train_denoiser(DATA, tmp_path, replace(recipe, learning_rate=1.0))


def test_a_truncated_checkpoint_is_named(tmp_path):
    recipe = replace(UNET, steps=2, batch=2)
    train_denoiser(DATA, tmp_path, recipe, stop_after=1)
    file = next(tmp_path.rglob("model.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FormatError, match="truncated"):
        train_denoiser(DATA, tmp_path, recipe)


@pytest.mark.parametrize("which", [1, 2])
def test_a_judge_trains_and_is_calibrated(which, tmp_path):
    net, facts = train_judge(which, tmp_path, replace(RECIPES[which], steps=1, batch=12), calibrate_on=120)
    assert not net.training
    assert not torch.equal(net.get_buffer("temperatures"), torch.ones(len(HEADS)))
    assert facts["parameters"] == sum(p.numel() for p in net.parameters())


def test_a_batch_has_no_one_and_two_objects_left_first_and_images_outside_of_the_domain():
    images, truth = labelled_batch(400, torch.Generator().manual_seed(0))
    assert images.shape == (400, 3, 32, 32) and float(images.min()) >= 0 and float(images.max()) <= 1
    assert int(truth.inside.sum()) == 300
    count = truth.there.sum(1)
    assert [int((count[truth.inside] == k).sum()) > minimum for k, minimum in ((0, 0), (1, 80), (2, 80))] == [True] * 3
    two = truth.there.all(1)
    assert (truth.centre[two, 0, 0] < truth.centre[two, 1, 0]).all() and not truth.there[~truth.inside].any()
    assert (truth.object[two, 0] == truth.object[two, 1]).float().mean() > 0.15  # twins
    assert (truth.style[two, 0] != truth.style[two, 1]).any()


def test_the_image_tower_trains_anew_and_the_text_stays(tmp_path):
    before, judge = load_contrast(), load_judge(1).network
    kept = {k: v.clone() for k, v in before.state_dict().items()}
    pair, facts = train_tower(tmp_path, judge, load_contrast(), replace(TOWER, steps=2, batch=4), images=16)
    after = pair.state_dict()
    changed = {k.split(".")[0] for k in kept if not torch.equal(kept[k], after[k])}
    assert changed == {"tower"} and facts["recipe"]["stage"] == "tower"


def test_a_stage_asks_for_the_one_before_it(tmp_path):
    with pytest.raises(InputError, match="training vae  first|training latents  first"):
        run_stage("unet", tmp_path)
    with pytest.raises(InputError, match="write one of vae, judge"):
        run_stage("unets", tmp_path)
    with pytest.raises(InputError, match="no concept"):
        run_stage("gold:cat", tmp_path)
    with pytest.raises(InputError, match=r"gold:circle@9"):
        run_stage("gold:circle@nine", tmp_path)


def test_a_second_gold_has_its_own_seed_and_folder_and_is_not_shipped(tmp_path, monkeypatch):
    """On the autoencoder and text encoder that ship, where the folder has none of its own."""
    seeds = []

    def trained(data, folder, recipe, **options):
        seeds.append((recipe.stage, recipe.seed, recipe.steps, bool((data.scenes.objects == 0).any())))
        return build_denoiser(), {"recipe": recipe.stage}

    monkeypatch.setattr(stages, "train_denoiser", trained)
    monkeypatch.setattr(stages, "make_latents", lambda *a, **k: latents(64))
    for name in ("latents", "gold:circle", "gold:circle@9"):
        run_stage(name, tmp_path)
    assert seeds == [("gold:circle", 7, 3000, False), ("gold:circle@9", 9, 3000, False)]
    assert load_shapes_pipeline("without-circle@9", folder=tmp_path).unet.config.in_channels == 4
    ship(tmp_path, tmp_path / "weights", tmp_path / "gold")
    assert [each.name for each in (tmp_path / "gold").iterdir()] == ["without-circle"]


def test_gold_data_has_no_image_of_the_concept():
    data = latents(200)
    rest = data.without("circle")
    assert 0 < len(rest.latents) < 200
    assert not (rest.scenes.objects == 0).any()
    assert len(rest.latents) == len(rest.texts) == len(rest.scenes)
