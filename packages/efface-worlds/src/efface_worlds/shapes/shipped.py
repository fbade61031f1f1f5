"""What ships: the pipeline, gold models, two judges and the contrastive pair."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from efface._errors import FormatError, InputError
from efface._io import load_folder
from efface._lazy import require
from efface_worlds.loading import quiet_transformers
from efface_worlds.shapes.contrast import ContrastivePair
from efface_worlds.shapes.judge import Judge
from efface_worlds.shapes.networks import NETWORKS

WEIGHTS = Path(__file__).parent / "weights"
"""Folders `pipeline`, `judge1`, `judge2`, `contrast`, and `training.json`, as `ship` of the training writes them."""

GOLD = Path(__file__).parent / "gold"
"""Denoisers that never saw one concept, and a second seed: one folder a variant."""

_PIPELINE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
_UNET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
_JUDGE_FILES = ("config.json", "model.safetensors")


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
    base = Path(folder) if folder is not None and variant == "base" else WEIGHTS / "pipeline"
    _check_files(base, _PIPELINE_FILES, "unet")
    unet = None if variant == "base" else _variant_folder(variant, GOLD if folder is None else Path(folder))
    with _silence() as diffusers:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
        if unet is not None:
            pipeline.register_modules(unet=diffusers.UNet2DConditionModel.from_pretrained(unet).eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def shapes_variants(folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names that `load_shapes_pipeline` takes here: the base, and the variants whose folders are at hand."""
    gold = GOLD if folder is None else Path(folder)
    return ("base", *sorted(path.parent.name for path in gold.glob(f"*/{_UNET_FILES[1]}")))


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
    _check_files(source, _JUDGE_FILES, stage)
    config, tensors = load_folder(source, expect="ShapesJudge")
    network = NETWORKS[which]()
    _fill(network, tensors, source, config.get("which") == which, stage)
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
    _check_files(source / "contrast", _JUDGE_FILES, "text")
    _check_files(source / "pipeline", _PIPELINE_FILES[2:5], "text")
    _, tensors = load_folder(source / "contrast", expect="ShapesContrast")
    with quiet_transformers() as transformers:
        text = transformers.CLIPTextModel.from_pretrained(source / "pipeline" / "text_encoder", local_files_only=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source / "pipeline" / "tokenizer", local_files_only=True)
    pair = ContrastivePair(text, tokenizer)
    ours = {name: value for name, value in pair.state_dict().items() if name.startswith("text.")}
    _fill(pair, ours | tensors, source / "contrast", True, "text")
    return pair.eval().requires_grad_(False)


def _variant_folder(variant: str, gold: Path) -> Path:
    known = shapes_variants(gold)
    if variant not in known:
        raise InputError(
            f"variant={variant!r}: here are {', '.join(map(repr, known))}; train another gold model with  "
            "python -m efface_worlds.shapes.training gold:NAME --work FOLDER"
        )
    _check_files(gold / variant, _UNET_FILES, variant.replace("without-", "gold:"))
    return gold / variant


def _check_files(folder: Path, names: Sequence[str], stage: str) -> None:
    """Refuse a folder with a missing or truncated file, before any library trips over it."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FormatError(f"{folder} has no {' and no '.join(missing)}: {_remedy(stage)}")
    for name in names:
        problem = _damage(folder / name)
        if problem:
            raise FormatError(f"{folder / name} is damaged, {problem}: {_remedy(stage)}")


def _remedy(stage: str) -> str:
    return (
        "reinstall efface (from git: check that the file was checked out whole), or train it again with  "
        f"python -m efface_worlds.shapes.training {stage} ship --work FOLDER"
    )


def _damage(path: Path) -> str | None:
    """What is wrong with a JSON or safetensors file, judged by its syntax, or its header and length."""
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"no JSON ({error})"
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            return f"{size} bytes are less than its header"
    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return f"{size} bytes do not go with its header ({error})"


def _fill(module: Any, tensors: dict[str, Any], source: Path, right: bool, stage: str) -> None:
    ours = {name: value.shape for name, value in module.state_dict().items()}
    if not right or ours != {name: value.shape for name, value in tensors.items()}:
        raise FormatError(f"{source} holds another network than this efface reads: {_remedy(stage)}")
    module.load_state_dict(tensors)


@contextmanager
def _silence() -> Iterator[Any]:
    """The library diffusers, imported and used without bars and without advice to install torchvision."""
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
