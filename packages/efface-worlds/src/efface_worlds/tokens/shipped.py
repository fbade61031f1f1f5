"""The two small language models that come with efface-worlds, read from their folders without the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from efface._errors import InputError
from efface_worlds.loading import quiet_transformers
from efface_worlds.tokens.training import ARCHITECTURES
from efface_worlds.tokens.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Architecture = Literal["llama", "gpt_neox"]

WEIGHTS = Path(__file__).parent / "weights"
"""One folder an architecture, as `efface_worlds.tokens.training` writes it."""


def load_token_model(
    architecture: Architecture = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    folder: str | os.PathLike[str] | None = None,
) -> Any:
    """A causal language model of Python source in eval mode, on the CPU: about 5 million parameters, 2,048 tokens.

    Args:
        architecture: `"llama"` (sequential blocks, RMSNorm) or `"gpt_neox"` (parallel blocks, LayerNorm).
        dtype: Of the weights; the files hold bfloat16.
        folder: Folder of a model that `efface_worlds.tokens.training` wrote, which then says its architecture itself;
            `None` takes the one that comes with efface-worlds.

    Raises:
        InputError: If the architecture is unknown or the folder holds no model.
        MissingExtraError: If transformers is not installed.
    """
    source = _folder(architecture, folder, "config.json", "model.safetensors")
    with quiet_transformers() as transformers:
        load = transformers.AutoModelForCausalLM.from_pretrained
        return load(source, local_files_only=True, dtype=dtype).eval()


def load_token_tokenizer(
    architecture: Architecture = "llama", *, folder: str | os.PathLike[str] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; it is the same for both that come with efface-worlds.

    Args:
        architecture: `"llama"` or `"gpt_neox"`.
        folder: As for `load_token_model`.

    Raises:
        InputError: If the architecture is unknown or the folder holds no tokenizer.
        MissingExtraError: If transformers is not installed.
    """
    source = _folder(architecture, folder, "tokenizer.json")
    with quiet_transformers():
        return load_vocabulary(source / "tokenizer.json")


def _folder(architecture: str, folder: str | os.PathLike[str] | None, *files: str) -> Path:
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture={architecture!r}: write one of {', '.join(map(repr, ARCHITECTURES))}")
    source = WEIGHTS / architecture if folder is None else Path(folder)
    missing = [name for name in files if not (source / name).is_file()]
    if missing:
        raise InputError(
            f"{source} has no {' and no '.join(missing)}: reinstall efface, or train the model with  "
            f"python -m efface_worlds.tokens.training --architecture {architecture} --out FOLDER  and pass folder="
        )
    return source
