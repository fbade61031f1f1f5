"""Judges from real folders: tiny models of transformers with their processors, saved and read again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from efface import InputError
from efface.audit import ClassifierJudge, ClipJudge

_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_VIT: dict[str, Any] = _SMALL | {"image_size": 16, "patch_size": 8}
_WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "!",
    *"abcdefghijklmnopqrstuvwxyz",
    *[f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"],
]


def pictures(n: int = 5) -> Tensor:
    """Odd in number and size, so that batches and resizing are gone through."""
    return torch.rand(n, 3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    labels = {0: "tench, Tinca tinca", 1: "golf_ball", 2: "church"}
    config = tf.ViTConfig(**_VIT, id2label=labels, label2id={name: i for i, name in labels.items()})
    tf.ViTForImageClassification(config).save_pretrained(folder)
    tf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> Any:
    vocabulary, merges = folder / "words.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(_WORDS)}))
    merges.write_text("#version: 0.2\n")
    return tf.CLIPTokenizer(str(vocabulary), str(merges))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = _SMALL | {"vocab_size": len(_WORDS), "max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": 1}
    config = tf.CLIPConfig(text_config=text, vision_config=_VIT, projection_dim=8)
    tf.CLIPModel(config).save_pretrained(folder)
    side = {"height": 16, "width": 16}
    processor = tf.CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    tf.CLIPProcessor(processor, _tokenizer(folder)).save_pretrained(folder)
    return folder


class TestClassifier:
    def test_it_reads_a_folder_and_one_label_is_the_likeliest(self, vit: Path) -> None:
        judge = ClassifierJudge.load(vit, calibration="nothing")
        found = torch.stack([judge(pictures(), name) for name in ("Tinca tinca", "golf ball", "church")])
        assert judge.title == vit.name and judge.calibration == "nothing"
        assert found.shape == (3, 5) and found.dtype == torch.float64 and bool((found.sum(0) == 1).all())

    def test_it_is_the_model_on_its_own_processors_pixels(self, vit: Path) -> None:
        judge = ClassifierJudge.load(vit)
        images = [(255 * image.permute(1, 2, 0)).round().byte().numpy() for image in pictures()]
        given = tf.ViTImageProcessor.from_pretrained(vit)(images=images, return_tensors="pt")
        with torch.no_grad():
            best = tf.ViTForImageClassification.from_pretrained(vit)(**given).logits.argmax(1)
        assert torch.equal(judge(pictures(), "church") == 1, best == 2)

    def test_a_label_that_it_does_not_have_is_refused(self, vit: Path) -> None:
        with pytest.raises(InputError, match="no label 'ball'"):
            ClassifierJudge.load(vit)(pictures(), "ball")

    def test_a_model_that_classifies_nothing_is_refused(self, clip: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        tf.BertModel(tf.BertConfig(**_SMALL, vocab_size=8)).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="holds no judge"):
            ClassifierJudge.load(tmp_path)
        with pytest.raises(InputError):
            ClipJudge.load(tmp_path)

    def test_a_folder_without_its_processor_is_refused(self, vit: Path, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((vit / name).read_bytes())
        with pytest.raises(InputError, match="holds no judge"):
            ClassifierJudge.load(tmp_path)

    def test_broken_weights_are_refused(self, vit: Path, tmp_path: Path) -> None:
        for file in vit.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(InputError, match="holds no judge"):
            ClassifierJudge.load(tmp_path)


class TestClip:
    def test_it_reads_a_folder_and_gives_a_probability(self, clip: Path) -> None:
        judge = ClipJudge.load(clip)
        found = judge(pictures(), "church")
        assert found.shape == (5,) and found.dtype == torch.float64 and bool(((found > 0) & (found < 1)).all())

    def test_texts_of_other_lengths_are_padded_and_one_that_is_too_long_is_refused(self, clip: Path) -> None:
        assert bool(ClipJudge.load(clip, others=("a", "a longer text"))(pictures(2), "church").isfinite().all())
        judge = ClipJudge.load(clip, others=("a", " ".join(["a very long text"] * 30)))
        with pytest.raises(InputError, match="reads 40 tokens, and 'a very long"):
            judge(pictures(2), "church")

    def test_siglip_reads_texts_of_one_length(self) -> None:
        told: list[Any] = []

        class Siglip:
            config = SimpleNamespace(model_type="siglip")

            def __call__(self, **given: Any) -> Any:
                return SimpleNamespace(logits_per_image=torch.zeros(1, 4))

        def processor(**given: Any) -> dict[str, Any]:
            told.append(given["padding"])
            return {}

        ClipJudge(Siglip(), processor)(pictures(1), "church")
        assert told == ["max_length"]

    def test_a_picture_goes_with_the_text_that_is_nearer(self, clip: Path) -> None:
        judge = ClipJudge.load(clip, others=("a photo of church",))
        assert torch.allclose(judge(pictures(), "church"), torch.full((5,), 0.5, dtype=torch.float64), atol=1e-6)

    def test_a_model_without_texts_is_refused(self, vit: Path) -> None:
        with pytest.raises(InputError, match="reads no texts"):
            ClipJudge.load(vit)
