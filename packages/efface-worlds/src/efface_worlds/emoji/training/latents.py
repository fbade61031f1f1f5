"""Stage `latents`: drawn scenes as latents, and their captions as embeddings of the frozen text encoder.

An embedding is kept once a distinct caption, in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import load_folder, save_folder
from efface_worlds.emoji.captions import caption
from efface_worlds.emoji.drawing import render
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.emoji.text import embed_prompts, load_text_encoder
from efface_worlds.emoji.world import shows

IMAGES = 81_920
_SEED = 900_001
_PART = 512


@dataclass(frozen=True)
class LatentSet:
    """What a denoiser is trained on.

    Attributes:
        latents: `(n, 4, 12, 12)`, scaled to unit variance.
        texts: Row of `embeddings` for each image's caption, `(n,)`.
        plain: Row of `embeddings` for each image's plain caption, `(n,)`; `NONE` where it shows more than one large
            object, which that cannot tell.
        embeddings: `(m, 32, 384)`, half precision; the first is the empty prompt's.
        scenes: What the images show.
    """

    latents: Tensor
    texts: Tensor
    plain: Tensor
    embeddings: Tensor
    scenes: Scenes

    def without(self, names: Sequence[str]) -> LatentSet:
        """The images that show none of these concepts, subgroups, groups, professions, styles or backgrounds."""
        kept = torch.ones(len(self.latents), dtype=torch.bool)
        for name in names:
            kept &= ~shows(self.scenes, name)
        rows = kept.nonzero()[:, 0]
        texts, plain = self.texts[rows], self.plain[rows]
        return LatentSet(self.latents[rows], texts, plain, self.embeddings, self.scenes[rows])


def read_latents(vae: Any, folder: Path, images: int = IMAGES) -> LatentSet:
    """Make the set and keep it in `folder`, or read it if it is there."""
    scenes = _scenes(images)
    latents = encode_images(vae, folder / "images", images)
    texts, plain, embeddings = encode_captions(folder / "texts", images)
    return LatentSet(latents.float(), texts, plain, embeddings, scenes)


@torch.no_grad()
def encode_images(vae: Any, folder: Path, images: int = IMAGES) -> Tensor:
    """Means of the latents, scaled, `(n, 4, 12, 12)` in half precision; kept in `folder`, or read from it."""
    if not (folder / "model.safetensors").is_file():
        scenes, means = _scenes(images), []
        for start in range(0, images, _PART):
            pictures = render(scenes[start : start + _PART]) * 2 - 1
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(pictures.to(memory_format=torch.channels_last)).latent_dist.mean
            means.append((mean.float() * vae.config.scaling_factor).half().contiguous())
        save_folder(folder, {"type": "EmojiLatents", "images": images, "jitter": 0.0}, {"latents": torch.cat(means)})
    return load_folder(folder, expect="EmojiLatents")[1]["latents"]


@torch.no_grad()
def encode_captions(folder: Path, images: int = IMAGES) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the captions and of the plain ones, and embeddings; kept in `folder`, or read from it."""
    if not (folder / "model.safetensors").is_file():
        rows: dict[str, int] = {"": 0}
        scenes = _scenes(images)
        told, plain = caption(scenes, reader="train", seed=_SEED), caption(scenes, reader="plain", seed=_SEED)
        single = ((scenes.count == 1) & ~scenes.small).tolist()
        texts = [rows.setdefault(text, len(rows)) for text in told]
        of_plain = [rows.setdefault(text, len(rows)) if one else NONE for text, one in zip(plain, single, strict=True)]
        encoder, tokenizer = load_text_encoder()
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = embed_prompts(encoder, tokenizer, list(rows), dtype=torch.float16)
        found = {"texts": torch.tensor(texts).int(), "plain": torch.tensor(of_plain).int(), "embeddings": embeddings}
        save_folder(folder, {"type": "EmojiTexts"}, found)
    _, tensors = load_folder(folder, expect="EmojiTexts")
    return tensors["texts"].long(), tensors["plain"].long(), tensors["embeddings"]


def _scenes(images: int) -> Scenes:
    """Scenes whose captions tell all that is to be seen, but for tints.

    Sizes and places that stray untold would be a third of the latents' variance, which no denoiser can predict.
    """
    return sample_scenes(images, generator=torch.Generator().manual_seed(_SEED), jitter=0.0)
