"""Stage `latents`: renderings as latents, and their captions as embeddings of the frozen text encoder.

Each scene has a few captions, so that the denoiser reads more than one text of an image. An embedding is kept once a
distinct caption, in half precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import load_folder, save_folder
from efface_worlds.shapes.captions import caption
from efface_worlds.shapes.contrast import embed_prompts
from efface_worlds.shapes.drawing import render
from efface_worlds.shapes.scenes import Scenes, sample_scenes
from efface_worlds.shapes.world import shows

IMAGES = 40_960
CAPTIONS = 2
_SEED = 700_001


@dataclass(frozen=True)
class LatentSet:
    """What a denoiser is trained on.

    Attributes:
        latents: `(n, 4, 16, 16)`, scaled to unit variance.
        texts: Rows of `embeddings` for each image's captions, `(n, 2)`.
        embeddings: `(m, 24, 128)`, half precision; the first is the empty prompt's.
        scenes: What the images show.
    """

    latents: Tensor
    texts: Tensor
    embeddings: Tensor
    scenes: Scenes

    def without(self, concept: str | None) -> LatentSet:
        """The images that do not show a concept."""
        rows = torch.arange(len(self.latents)) if concept is None else (~shows(self.scenes, concept)).nonzero()[:, 0]
        return LatentSet(self.latents[rows], self.texts[rows], self.embeddings, self.scenes[rows])


@torch.no_grad()
def make_latents(vae: Any, text: Any, tokenizer: Any, folder: Path, images: int = IMAGES) -> LatentSet:
    """Make the set and keep it in `folder`, or read it if it is there."""
    latents = encode_images(vae, folder / "images", images)
    scenes = _scenes(images)
    if not (folder / "texts" / "model.safetensors").is_file():
        told = [caption(scenes, reader="train", seed=_SEED + i) for i in range(CAPTIONS)]
        rows: dict[str, int] = {"": 0}
        texts = torch.tensor([[rows.setdefault(text, len(rows)) for text in row] for row in zip(*told, strict=True)])
        embeddings = embed_prompts(text, tokenizer, list(rows), torch.float16)
        save_folder(folder / "texts", {"type": "ShapesTexts"}, {"texts": texts.int(), "embeddings": embeddings})
    _, tensors = load_folder(folder / "texts", expect="ShapesTexts")
    return LatentSet(latents.float(), tensors["texts"].long(), tensors["embeddings"], scenes)


@torch.no_grad()
def encode_images(vae: Any, folder: Path, images: int = IMAGES) -> Tensor:
    """Means of the latents, scaled, `(n, 4, 16, 16)` in half precision; kept in `folder`, or read from it."""
    if not (folder / "model.safetensors").is_file():
        scenes = _scenes(images)
        parts = (render(scenes[i : i + 256]) * 2 - 1 for i in range(0, images, 256))
        latents = torch.cat([vae.encode(x).latent_dist.mean.half() for x in parts]) * vae.config.scaling_factor
        save_folder(folder, {"type": "ShapesLatents", "images": images}, {"latents": latents})
    return load_folder(folder, expect="ShapesLatents")[1]["latents"]


def _scenes(images: int) -> Scenes:
    return sample_scenes(images, generator=torch.Generator().manual_seed(_SEED), held_out=False)
