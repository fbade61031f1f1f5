"""Stage `text`: a text encoder and an image tower that put captions next to the images they fit.

Three choices make prompt embeddings worth operating on: the read-out is a random row among the end token and the
padding, so that every padding row carries the prompt's meaning; a quarter of the captions is one bare concept; and
sequences keep their full padded length. A caption fits every image that has all it names, not only its own. A second,
linear read-out of the same row says which concepts and families the caption names; it makes presence readable for
styles too, and siblings nearer than strangers, which the contrast alone did not reach.

Stage `tower` fits the image tower alone, to another judge's features: the text encoder stays, and what reads it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._lazy import require
from efface_worlds.shapes.captions import ATTRIBUTES, attributes, requirements
from efface_worlds.shapes.concepts import FACTORS
from efface_worlds.shapes.contrast import ContrastivePair, ImageTower, tokenize
from efface_worlds.shapes.drawing import render
from efface_worlds.shapes.networks import WIDTH, JudgeNetwork
from efface_worlds.shapes.scenes import sample_scenes
from efface_worlds.shapes.training.loop import Recipe, train
from efface_worlds.shapes.vocabulary import LENGTH, build_tokenizer

RECIPE = Recipe(
    "text", steps=900, batch=176, learning_rate=2e-3, warmup=60, weight_decay=0.05, betas=(0.9, 0.98), seed=5
)
TOWER = replace(RECIPE, stage="tower", seed=6)
_IMAGES = 16_384
_NAMED = sum(not name.startswith(("count", "pair")) for name in ATTRIBUTES)  # concepts and families come first
_NAMING = 10.0  # weight of the loss of naming them


def build_text_encoder(tokenizer: Any) -> Any:
    """The untrained encoder: width 128, three layers, four heads, 24 positions."""
    transformers = require("transformers", extra="diffusion")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def train_text(
    folder: Path,
    judge: JudgeNetwork,
    recipe: Recipe = RECIPE,
    images: int = _IMAGES,
    device: str = "cpu",
    **options: Any,
) -> tuple[ContrastivePair, Any, dict[str, Any]]:
    """Train the pair on `images` renderings, the judge's features frozen; returns it with tokenizer and facts."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    pair = ContrastivePair(build_text_encoder(tokenizer), tokenizer).to(device)
    names = nn.Linear(WIDTH, _NAMED).to(device)
    data = _Captioned(judge, images, recipe.seed, device)

    def loss(step: int) -> Tensor:
        chosen, ids, rows, required = data.batch(recipe, step, tokenizer)
        hidden = pair.rows(ids, rows)
        return data.contrast(pair, hidden, chosen, required) + _NAMING * F.binary_cross_entropy_with_logits(
            names(hidden), with_families(required).to(device)
        )

    facts = train(nn.ModuleDict({"pair": pair, "names": names}), loss, recipe, folder, **options)
    return pair.cpu(), tokenizer, facts


def train_tower(
    folder: Path,
    judge: JudgeNetwork,
    pair: ContrastivePair,
    recipe: Recipe = TOWER,
    images: int = _IMAGES,
    device: str = "cpu",
    **options: Any,
) -> tuple[ContrastivePair, dict[str, Any]]:
    """Train the image tower of a pair anew on a judge's features, the text's side frozen; returns it with the facts."""
    torch.manual_seed(recipe.seed)
    pair = pair.requires_grad_(False).to(device)
    pair.tower = ImageTower().to(device)
    data = _Captioned(judge, images, recipe.seed, device)

    def loss(step: int) -> Tensor:
        chosen, ids, rows, required = data.batch(recipe, step, pair.tokenizer)
        return data.contrast(pair, pair.rows(ids, rows), chosen, required)

    facts = train(pair, loss, recipe, folder, **options)
    return pair.cpu(), facts


class _Captioned:
    """Renderings as a judge's features, and the captions of each step."""

    def __init__(self, judge: JudgeNetwork, images: int, seed: int, device: str) -> None:
        self.scenes = sample_scenes(images, generator=torch.Generator().manual_seed(seed), balanced=True)
        with torch.no_grad():
            parts = [judge.features(render(self.scenes[i : i + 512])) for i in range(0, images, 512)]
        self.features, self.held, self.device = torch.cat(parts).to(device), attributes(self.scenes), device

    def batch(self, recipe: Recipe, step: int, tokenizer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which images, the ids of their captions, the row that is read of each, and what each caption requires."""
        generator = recipe.generator(step)
        chosen = torch.randint(0, len(self.scenes), (recipe.batch,), generator=generator)
        texts, required = requirements(self.scenes[chosen], reader="text", seed=recipe.seed * 1_000_003 + step)
        ids = tokenize(tokenizer, texts)
        rows = _readout_rows(ids, tokenizer.eos_token_id, generator)
        return chosen, ids.to(self.device), rows, required

    def contrast(self, pair: ContrastivePair, hidden: Tensor, chosen: Tensor, required: Tensor) -> Tensor:
        """Loss of telling which captions fit which images."""
        fits = (required @ (1 - self.held[chosen]).T == 0).float().to(self.device)
        scores = pair.sharpness.exp().clamp(max=100) * pair.project(hidden) @ pair.tower(self.features[chosen]).T
        return (_soft_cross_entropy(scores, fits) + _soft_cross_entropy(scores.T, fits.T)) / 2


def with_families(required: Tensor) -> Tensor:
    """The concepts that captions name and the families of those, `(n, concepts and families)`, 0 or 1."""
    named = required[:, :_NAMED].clone()
    for factor, values in FACTORS.items():
        for label, value in enumerate(values):
            if value.family:
                family, own = (ATTRIBUTES.index(a) for a in (f"family:{value.family}", f"{factor}:{label}"))
                named[:, family] = torch.maximum(named[:, family], named[:, own])
    return named


def _readout_rows(ids: Tensor, end: int, generator: torch.Generator) -> Tensor:
    """A random row among the end token and the padding behind it, `(n,)`."""
    first = (ids == end).int().argmax(1)
    return first + (torch.rand(len(ids), generator=generator) * (LENGTH - first)).long()


def _soft_cross_entropy(scores: Tensor, fits: Tensor) -> Tensor:
    """Loss of naming the matches of each row, all of them equally right."""
    return -(fits / fits.sum(1, keepdim=True) * scores.log_softmax(1)).sum(1).mean()
