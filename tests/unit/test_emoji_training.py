"""How the emoji world is trained: a stopped run ends with the bits of one that was not; what gold sets lack."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from efface._errors import InputError
from efface_worlds.emoji.captions import caption
from efface_worlds.emoji.scenes import NONE, sample_scenes
from efface_worlds.emoji.shipped import emoji_variants, load_emoji_pipeline
from efface_worlds.emoji.text import LENGTH, WIDTH, embed_prompts, load_text_encoder
from efface_worlds.emoji.training import denoiser, stages
from efface_worlds.emoji.training.autoencoder import DECODER, build_autoencoder, train_autoencoder, train_decoder
from efface_worlds.emoji.training.autoencoder import RECIPE as VAE
from efface_worlds.emoji.training.denoiser import RECIPE as UNET
from efface_worlds.emoji.training.denoiser import train_denoiser
from efface_worlds.emoji.training.latents import _SEED, LatentSet, _scenes, encode_captions
from efface_worlds.emoji.world import shows


def fresh_autoencoder() -> Any:
    torch.manual_seed(0)
    return build_autoencoder()


def latents(n: int = 8) -> LatentSet:
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(n, generator=generator)
    texts = torch.randint(0, 5, (n,), generator=generator)
    plain = torch.where(scenes.count == 1, texts, NONE)
    return LatentSet(
        torch.randn(n, 4, 12, 12, generator=generator), texts, plain, torch.randn(5, LENGTH, WIDTH).half(), scenes
    )


DATA = latents()
TRAINERS: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
    "unet": lambda folder, **o: train_denoiser(DATA, folder, replace(UNET, steps=2, batch=2), **o),
    "vae": lambda folder, **o: train_autoencoder(folder, replace(VAE, steps=2, batch=2), **o),
    "decoder": lambda folder, **o: train_decoder(fresh_autoencoder(), folder, replace(DECODER, steps=2, batch=2), **o),
}


def test_a_decoder_that_is_trained_for_longer_reads_the_same_latents(tmp_path: Path) -> None:
    before = fresh_autoencoder().state_dict()
    vae, _ = TRAINERS["decoder"](tmp_path)
    changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} <= {"decoder", "post_quant_conv"}


@pytest.mark.slow  # the loop is that of the shapes world, which is stopped in every run of the tests
@pytest.mark.parametrize("stage", TRAINERS)
def test_a_stopped_run_goes_on_bit_for_bit(stage: str, tmp_path: Path) -> None:
    whole, facts = TRAINERS[stage](tmp_path / "whole")
    TRAINERS[stage](tmp_path / "stopped", stop_after=1)
    resumed, _ = TRAINERS[stage](tmp_path / "stopped")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == torch.float32
    assert facts["recipe"]["steps"] == 2


@pytest.mark.parametrize("name", ["cat", "animal-bug", "noto", "profession:pilot", "blue"])
def test_a_gold_set_shows_nothing_of_what_it_lacks(name: str) -> None:
    scenes = sample_scenes(4000, generator=torch.Generator().manual_seed(1), balanced=True)
    texts = torch.arange(4000)
    data = LatentSet(torch.zeros(4000, 1), texts, texts, torch.zeros(0), scenes)
    kept = data.without([name])
    assert 0 < len(kept.texts) < 4000
    assert not shows(kept.scenes, name).any()
    assert shows(scenes[torch.tensor(sorted(set(texts.tolist()) - set(kept.texts.tolist())))], name).all()


def test_captions_are_kept_once_each_and_read_as_the_pipeline_reads_them(tmp_path: Path) -> None:
    rows, plain, embeddings = encode_captions(tmp_path, 40)
    assert all(map(torch.equal, encode_captions(tmp_path, 40), (rows, plain, embeddings)))
    assert max(rows.max(), plain.max()) + 1 == len(embeddings)
    scenes = _scenes(40)
    assert torch.equal(plain == NONE, (scenes.count == 2) | scenes.small)
    told = (caption(scenes, reader="train", seed=_SEED), caption(scenes, reader="plain", seed=_SEED))
    for found, texts in zip((rows, plain), told, strict=True):
        there = found != NONE
        exact = embed_prompts(*load_text_encoder(), texts)[there]
        apart = (embeddings[found[there]].float() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        assert apart.max() < 0.02  # of bfloat16 and half precision


def test_the_first_steps_read_plain_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is told by the embeddings: zeros for plain captions, ones for others."""
    embeddings = torch.stack([torch.full((LENGTH, WIDTH), float(value)) for value in (0, 0, 1)]).half()
    data = replace(DATA, texts=torch.full((8,), 2), plain=torch.where(DATA.plain == NONE, NONE, 1))
    read: list[float] = []

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def set_attn_processor(self, _: Any) -> None: ...
        def set_default_attn_processor(self) -> None: ...

        def forward(self, latents: torch.Tensor, times: torch.Tensor, texts: torch.Tensor) -> Any:
            read.append(float(texts.max()))
            return SimpleNamespace(sample=latents * self.weight)

    monkeypatch.setattr(denoiser, "build_denoiser", Watched)
    recipe = replace(UNET, steps=10, batch=8)
    train_denoiser(replace(data, embeddings=embeddings), tmp_path, recipe)
    assert read == [0.0] * 6 + [1.0] * 4
    largest = 1 - 2.0**-24  # of torch.rand; a power of it rounds to 1
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), largest))
    train_denoiser(replace(data, embeddings=embeddings), tmp_path / "latest", recipe)


@pytest.mark.slow
def test_stages_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the autoencoder to gold models; what ships is read as it was trained."""
    scenes = sample_scenes(64, generator=torch.Generator().manual_seed(2), balanced=True)
    none = torch.zeros(64, dtype=torch.long)
    data = LatentSet(torch.randn(64, 4, 12, 12), none, none, DATA.embeddings, scenes)
    monkeypatch.setattr(stages, "read_latents", lambda vae, folder: data)
    monkeypatch.setattr(stages, "train_autoencoder", lambda folder, **o: TRAINERS["vae"](folder, **o))
    monkeypatch.setattr(stages, "train_decoder", lambda vae, folder, **o: TRAINERS["decoder"](folder, **o))
    monkeypatch.setattr(stages, "RECIPE", replace(stages.RECIPE, steps=1, batch=2))
    with pytest.raises(InputError, match="run .* vae  first"):
        stages.run_stage("unet", tmp_path)
    with pytest.raises(InputError, match="is no concept"):
        stages.run_stage("gold:catt", tmp_path)
    for name in ("vae", "decoder", "latents", "unet", "gold", "gold:black and white"):
        stages.run_stage(name, tmp_path)
    seed = json.loads((tmp_path / "unet" / "training.json").read_text())["recipe"]["seed"]
    for folder, unseen in (("without-black-and-white", ["black and white"]), ("gold", list(stages.GOLDS))):
        trained = json.loads((tmp_path / folder / "training.json").read_text())
        assert (trained["without"], trained["images"]) == (unseen, len(data.without(unseen).texts))
        assert trained["recipe"]["seed"] != seed
    stages.ship(tmp_path, tmp_path / "weights", tmp_path / "gold")
    pipeline = load_emoji_pipeline(folder=tmp_path / "weights" / "pipeline")
    own = stages._denoiser(tmp_path / "unet").conv_in.weight
    for config in (*(tmp_path / "weights").rglob("config.json"), *(tmp_path / "gold").rglob("config.json")):
        assert str(tmp_path) not in config.read_text()
    assert torch.equal(pipeline.unet.conv_in.weight, own.half().float())
    assert emoji_variants(tmp_path / "gold") == ("base", "gold", "without-black-and-white")
    assert set(json.loads((tmp_path / "weights" / "training.json").read_text())) == {
        "vae",
        "decoder",
        "latents",
        "unet",
    }
