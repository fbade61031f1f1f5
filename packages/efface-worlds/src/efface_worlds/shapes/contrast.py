"""The contrastive pair as a scorer: captions and images as unit vectors of one space, as CLIP gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface_worlds.shapes.networks import WIDTH
from efface_worlds.shapes.vocabulary import LENGTH


class ImageTower(nn.Module):
    """Judge features, `(n, 128)` -> unit vectors in the space shared with captions, `(n, 128)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        """Project and normalise."""
        return F.normalize(self.layers(features), dim=-1)


class ContrastivePair(nn.Module):
    """Text encoder and image tower with their projections, trained together.

    Args:
        text: The CLIPTextModel.
        tokenizer: Its tokenizer; needed by `texts` alone.
    """

    def __init__(self, text: Any, tokenizer: Any = None) -> None:
        super().__init__()
        self.text = text
        self.tokenizer = tokenizer
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.tower = ImageTower()
        self.sharpness = nn.Parameter(torch.tensor(2.6))

    def rows(self, ids: Tensor, rows: Tensor) -> Tensor:
        """One row of each caption's embedding, `(n, 128)`."""
        return self.text(input_ids=ids).last_hidden_state[torch.arange(len(ids)), rows]

    def project(self, hidden: Tensor) -> Tensor:
        """Rows as unit vectors of the shared space, `(n, 128)`."""
        return F.normalize(self.projection(hidden), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts, read at the last row, `(n, 128)`."""
        ids = tokenize(self.tokenizer, prompts)
        return self.project(self.rows(ids, torch.full((len(ids),), LENGTH - 1)))

    @torch.no_grad()
    def images(self, features: Tensor) -> Tensor:
        """Unit vectors of images from judge 1's features, `(n, 128)`."""
        return self.tower(features)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Ids as the pipeline makes them, padded to the full length, longer prompts cut, `(n, 24)`."""
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(prompts), **options).input_ids


@torch.no_grad()
def embed_prompts(
    text_encoder: Any, tokenizer: Any, prompts: Sequence[str], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Embeddings as the pipeline makes them: full padded length, no attention mask, `(n, 24, 128)`."""
    parts = (tokenize(tokenizer, prompts[i : i + 256]) for i in range(0, len(prompts), 256))
    return torch.cat([text_encoder(input_ids=ids).last_hidden_state.to(dtype) for ids in parts])
