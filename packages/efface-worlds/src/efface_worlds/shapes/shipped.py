"""What ships: the pipeline, gold models, two judges and the contrastive pair."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import load_folder
from efface_worlds.loading import check_files, fill, quiet_transformers
from efface_worlds.shapes.contrast import ContrastivePair
from efface_worlds.shapes.judge import Judge
from efface_worlds.shapes.networks import NETWORKS
from efface_worlds.shelf import PARTS_FILES, Shelf, quiet_diffusers

WEIGHTS = Path(__file__).parent / "weights"
"""Folders `pipeline`, `judge1`, `judge2`, `contrast`, and `training.json`, as `ship` of the training writes them."""

GOLD = Path(__file__).parent / "gold"
"""Denoisers that never saw one concept, and a second seed: one folder a variant."""

_SHELF = Shelf("shapes", WEIGHTS, GOLD)
_TEXT_FILES = ("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json")
_JUDGE_FILES = ("config.json", "model.safetensors")
_PIPELINE_FILES = ("model_index.json", *_TEXT_FILES, *PARTS_FILES)


def load_shapes_pipeline(variant: str = "base", *, folder: str | os.PathLike[str] | None = None) -> Any:
    """A `StableDiffusionPipeline` of the shapes world: float32, on the CPU, without progress bar.

    Args:
        variant: `"base"`; `"seed2"`, another seed that saw as much as the gold models; or a gold model,
            `"without-circle"`, `"without-striped"`, `"without-heart"`, which was trained like `"seed2"` but never
            saw that concept. All share text encoder and VAE with the base.
        folder: For `"base"` the folder of a pipeline, otherwise the folder in which the variants' folders lie;
            `None` takes what ships.

    Raises:
        InputError: If there is no such variant.
        FormatError: If a file is missing or truncated.
        MissingExtraError: If diffusers is not installed.
    """
    base = _SHELF.base(variant, folder)
    check_files(base, _PIPELINE_FILES, _SHELF.advice("unet"))
    unet = _SHELF.variant_unet(variant, folder)
    with quiet_diffusers() as diffusers:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
        if unet is not None:
            pipeline.register_modules(unet=diffusers.UNet2DConditionModel.from_pretrained(unet).eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def shapes_variants(folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names that `load_shapes_pipeline` takes here: the base, and the variants whose folders are at hand."""
    return _SHELF.variants(folder)


def unseen(variant: str, *, folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the concepts that a variant was trained without; none of those that saw all.

    Args:
        variant: One of `shapes_variants()`.
        folder: As of `load_shapes_pipeline`.

    Raises:
        InputError: If there is no such variant.
        FormatError: If the file that says it is damaged.
    """
    return _SHELF.unseen(variant, folder)


def load_judge(which: int = 1, *, folder: str | os.PathLike[str] | None = None) -> Judge:
    """A judge: 1 is a plain convolutional net, 2 a residual one, trained apart; select with one, score with the other.

    Args:
        which: 1 or 2.
        folder: Folder of a judge; `None` takes the one that comes with efface-worlds.

    Raises:
        InputError: If there is no such judge.
        FormatError: If a file is missing, truncated or of another judge.
    """
    if which not in NETWORKS:
        raise InputError(f"which={which!r}: write 1 or 2")
    source = WEIGHTS / f"judge{which}" if folder is None else Path(folder)
    stage = "judge" if which == 1 else "judge2"
    check_files(source, _JUDGE_FILES, _SHELF.advice(stage))
    config, tensors = load_folder(source, expect="ShapesJudge")
    network = NETWORKS[which]()
    fill(network, tensors, source, _SHELF.advice(stage), right=config.get("which") == which)
    return Judge(network.eval().requires_grad_(False))


def load_contrast(*, folder: str | os.PathLike[str] | None = None) -> ContrastivePair:
    """The text encoder with its image tower and projections: a CLIP-like pair, which stands on judge 1's features.

    Args:
        folder: Folder of `WEIGHTS`' form; `None` takes what comes with efface-worlds.

    Raises:
        FormatError: If a file is missing or truncated.
        MissingExtraError: If transformers is not installed.
    """
    source = WEIGHTS if folder is None else Path(folder)
    check_files(source / "contrast", _JUDGE_FILES, _SHELF.advice("text"))
    check_files(source / "pipeline", _TEXT_FILES, _SHELF.advice("text"))
    _, tensors = load_folder(source / "contrast", expect="ShapesContrast")
    with quiet_transformers() as transformers:
        text = transformers.CLIPTextModel.from_pretrained(source / "pipeline" / "text_encoder", local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source / "pipeline" / "tokenizer", local_files_only=True)
    pair = ContrastivePair(text, tokenizer)
    ours = {name: value for name, value in pair.state_dict().items() if name.startswith("text.")}
    fill(pair, ours | tensors, source / "contrast", _SHELF.advice("text"))
    return pair.eval().requires_grad_(False)
