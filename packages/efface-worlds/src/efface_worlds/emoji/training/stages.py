"""The stages in order; each reads what those before it left in the work folder, and leaves its own there.

A stage that is finished has a `training.json` and is not run again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import load_folder, reading, save_folder, write_json
from efface._lazy import require
from efface_worlds.emoji.concepts import named_by
from efface_worlds.emoji.networks import NETWORKS, JudgeNetwork
from efface_worlds.emoji.training.autoencoder import train_autoencoder, train_decoder
from efface_worlds.emoji.training.denoiser import RECIPE, build_scheduler, train_denoiser
from efface_worlds.emoji.training.judges import train_judge
from efface_worlds.emoji.training.latents import read_latents
from efface_worlds.shapes.training.loop import finished, forget_origin, read_facts, run_once
from efface_worlds.shelf import folder_name

GOLDS = ("cat", "animal-bug", "black and white")
"""A concept, a subgroup and a style, of which the gold model that ships never saw anything."""

STAGES = ("vae", "decoder", "judge", "judge2", "latents", "unet", "gold", "seed2")


def run_stage(name: str, work: Path, **options: Any) -> None:
    """Run one stage, or go on with it.

    Args:
        name: One of `STAGES`, or `gold:` and anything that is drawn or a set of it, of which that model sees nothing.
        work: The folder that all stages share.
        options: For the training loop.

    Raises:
        InputError: If there is no such stage, or an earlier one has not been run.
    """
    if name.startswith("gold:"):
        named_by(name.removeprefix("gold:"))
    elif name not in STAGES:
        raise InputError(f"{name!r} is no stage: write one of {', '.join(STAGES)}")
    folder = work / folder_name(name.replace("gold:", "without-"))
    run_once(name, folder, lambda: _STAGES[name.partition(":")[0]](work, folder, name, options))


def _judge(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    which = 2 if name.endswith("2") else 1
    net, facts = train_judge(which, folder, vae=autoencoder(work), **options)
    save_folder(folder, {"type": "EmojiJudge", "which": which}, net.state_dict())
    return facts


def _vae(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    vae, facts = train_autoencoder(folder, **options)
    vae.save_pretrained(folder)
    return facts


def _decoder(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    vae, facts = train_decoder(_autoencoder(_before(work, "vae")), folder, **options)
    vae.save_pretrained(folder)
    return facts


def _latents(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    data = read_latents(autoencoder(work), folder)
    return {"images": len(data.latents), "distinct": len(data.embeddings)}


def _unet(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    data = read_latents(autoencoder(work), _before(work, "latents"))
    unseen = GOLDS if name == "gold" else (name.removeprefix("gold:"),) if name.startswith("gold:") else ()
    recipe = replace(RECIPE, stage=name, seed=RECIPE.seed + (name != "unet"))
    unet, facts = train_denoiser(data.without(unseen), folder, recipe, **options)
    unet.save_pretrained(folder)
    return facts | {"without": list(unseen)}


_STAGES = {
    "vae": _vae,
    "decoder": _decoder,
    "judge": _judge,
    "judge2": _judge,
    "latents": _latents,
    "unet": _unet,
    "gold": _unet,
    "seed2": _unet,
}


def _denoiser(folder: Path) -> Any:
    return require("diffusers", extra="diffusion").UNet2DConditionModel.from_pretrained(folder).float()


def autoencoder(work: Path) -> Any:
    """The autoencoder of a work folder, with the decoder that was trained for longer if there is one."""
    return _autoencoder(_before(work, "decoder" if finished(work / "decoder") else "vae"))


def _autoencoder(folder: Path) -> Any:
    kl = require("diffusers", extra="diffusion").AutoencoderKL
    return kl.from_pretrained(folder).float().eval().requires_grad_(False)


def _before(work: Path, name: str) -> Path:
    if not finished(work / name):
        raise InputError(f"{work / name} is not finished: run  python -m efface_worlds.emoji.training {name}  first")
    return work / name


def read_judge(folder: Path) -> JudgeNetwork:
    """A judge from its folder."""
    config, tensors = load_folder(folder, expect="EmojiJudge")
    with reading(folder):
        net = NETWORKS[config["which"]]()
        net.load_state_dict(tensors)
    return net.eval()


def ship(work: Path, weights: Path, gold: Path) -> None:
    """Copy what is finished, in half precision, to where the package reads it: judges, pipeline, gold models."""
    path = weights / "training.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, folder in (("judge", "judge1"), ("judge2", "judge2")):
        if finished(work / name):
            config, tensors = load_folder(work / name, expect="EmojiJudge")
            half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
            save_folder(weights / folder, {"type": config["type"], "which": config["which"]}, half)
            facts[name] = read_facts(work / name)
            facts.pop("measured", None)  # it was of others
    if finished(work / "unet"):
        autoencoder(work).half().save_pretrained(weights / "pipeline" / "vae")
        _denoiser(work / "unet").half().save_pretrained(weights / "pipeline" / "unet")
        build_scheduler().save_pretrained(weights / "pipeline" / "scheduler")
        for part in ("vae", "unet"):
            forget_origin(weights / "pipeline" / part / "config.json")
        made = [name for name in ("vae", "decoder", "latents", "unet") if finished(work / name)]
        facts |= {name: read_facts(work / name) for name in made}
        facts.pop("measured", None)
    write_json(path, facts)
    for folder in sorted(work.iterdir()):
        if folder.name.startswith(("gold", "seed2", "without-")) and finished(folder):
            _denoiser(folder).half().save_pretrained(gold / folder.name)
            forget_origin(gold / folder.name / "config.json")
            write_json(gold / folder.name / "training.json", read_facts(folder))
