"""Where the pipelines and gold models of a world lie, how they are read, and pictures by them, a seed an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._io import read_json, reading
from efface._lazy import require
from efface._validate import did_you_mean
from efface_worlds.loading import check_files, quiet_transformers, remedy

UNET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
"""Of the folder of a denoiser."""

FACTS = "training.json"
"""Beside a denoiser: how it was trained, and without what."""

PARTS_FILES = (
    "scheduler/scheduler_config.json",
    *(f"unet/{name}" for name in UNET_FILES),
    *(f"vae/{name}" for name in UNET_FILES),
)
"""Of the folder of a pipeline, without its text encoder."""


@dataclass(frozen=True)
class Shelf:
    """The models of a world.

    Attributes:
        world: Its name.
        weights: The folder with `pipeline` and the judges in it.
        gold: The folder of the denoisers that never saw something, and of a second seed: one folder a variant.
    """

    world: str
    weights: Path
    gold: Path

    def advice(self, stage: str) -> str:
        """What to do where the model of a stage of training is missing or damaged."""
        return remedy(f"efface_worlds.{self.world}.training", stage)

    def base(self, variant: str, folder: str | os.PathLike[str] | None) -> Path:
        """The folder of the base pipeline, whose parts a variant shares; `folder` as of `variant_unet`."""
        return Path(folder) if folder is not None and variant == "base" else self.weights / "pipeline"

    def variants(self, folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
        """Names of variants that are at hand: the base, and those whose folders lie in `folder`."""
        gold = self.gold if folder is None else Path(folder)
        return ("base", *sorted(path.parent.name for path in gold.glob(f"*/{UNET_FILES[1]}")))

    def unseen(self, variant: str, folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
        """What a variant's denoiser never saw, by the names that it was trained without."""
        found = self.variant_unet(variant, folder)
        if found is None or not (found / FACTS).is_file():
            return ()
        with reading(found / FACTS):
            return tuple(read_json(found / FACTS)["without"])

    def variant_unet(self, variant: str, folder: str | os.PathLike[str] | None) -> Path | None:
        """The folder of a variant's denoiser; None for the base.

        Args:
            variant: `"base"`, `"seed2"`, `"gold"`, `"without-NAME"`.
            folder: Where the variants' folders lie; None takes those that ship.

        Raises:
            InputError: If there is no such variant.
            FormatError: If a file of it is missing or damaged.
        """
        if variant == "base":
            return None
        gold, name, known = self.gold if folder is None else Path(folder), folder_name(variant), self.variants(folder)
        if name not in known:
            raise InputError(
                f"variant={variant!r}{did_you_mean(name, known)}: here are {', '.join(map(repr, known))}; train "
                f"another gold model with  python -m efface_worlds.{self.world}.training gold:NAME --work FOLDER"
            )
        check_files(gold / name, UNET_FILES, self.advice(variant.replace("without-", "gold:")))
        return gold / name


def folder_name(name: str) -> str:
    """What the folder of a model is called.

    >>> folder_name("without-black and white"), folder_name("without-profession:cook")
    ('without-black-and-white', 'without-profession-cook')
    """
    return name.replace(" ", "-").replace(":", "-")


@contextmanager
def quiet_diffusers() -> Iterator[Any]:
    """The library diffusers, imported and used without bars and without advice to install torchvision.

    Raises:
        MissingExtraError: If it is not installed.
    """
    with quiet_transformers() as transformers:
        spoken = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        try:
            diffusers = require("diffusers", extra="diffusion")
            shown = diffusers.utils.logging.is_progress_bar_enabled()
            diffusers.utils.logging.disable_progress_bar()
            try:
                yield diffusers
            finally:
                if shown:
                    diffusers.utils.logging.enable_progress_bar()
        finally:
            transformers.utils.logging.set_verbosity(spoken)


@torch.no_grad()
def sample(
    pipeline: Any, prompts: Sequence[str] | Tensor, *, seed: int, steps: int, guidance: float, batch: int
) -> Tensor:
    """One image a prompt, `(n, 3, h, w)` in [0, 1]; image i starts from noise of seed `seed + i`, whatever the batch.

    Args:
        pipeline: A `StableDiffusionPipeline`.
        prompts: Texts, or embeddings `(n, rows, width)`.
        seed: Of the first image.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance.
        batch: Images at a time.

    Raises:
        InputError: If there are no prompts, or one text stands in the place of a list.
    """
    if isinstance(prompts, str):
        raise InputError(f"prompts is one text: write a list, [{prompts!r}]")
    if not len(prompts):
        raise InputError("no prompts: write at least one")
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        kind = "prompt_embeds" if isinstance(part, Tensor) else "prompt"
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        given = part if isinstance(part, Tensor) else list(part)
        options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt", "generator": noise}
        images.append(pipeline(**{kind: given}, **options).images)
    return torch.cat(images).float()
