"""The stages in order; each reads what those before it left in the work folder, and leaves its own there.

A stage that is finished has a `training.json` and is not run again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface._io import load_folder, reading, save_folder, write_json
from efface._lazy import require
from efface_worlds.loading import quiet_transformers
from efface_worlds.shapes.concepts import concept
from efface_worlds.shapes.contrast import ContrastivePair
from efface_worlds.shapes.networks import NETWORKS, JudgeNetwork
from efface_worlds.shapes.shipped import WEIGHTS, load_contrast
from efface_worlds.shapes.training.autoencoder import train_autoencoder
from efface_worlds.shapes.training.denoiser import RECIPE as DENOISER
from efface_worlds.shapes.training.denoiser import build_scheduler, train_denoiser
from efface_worlds.shapes.training.judges import train_judge
from efface_worlds.shapes.training.latents import LatentSet, make_latents
from efface_worlds.shapes.training.loop import finished, forget_origin, read_facts, run_once
from efface_worlds.shapes.training.text import build_text_encoder, train_text, train_tower
from efface_worlds.shapes.vocabulary import build_tokenizer

GOLDS = ("circle", "striped", "heart")
STAGES = ("vae", "judge", "judge2", "text", "latents", "unet", "seed2", *(f"gold:{name}" for name in GOLDS))
ALONE = ("tower",)
"""Stages that are for a judge which was trained anew while the rest stays."""
SHORT_STEPS = 3000
"""Of the gold models, and of the second seed that they are compared with."""


def run_stage(name: str, work: Path, **options: Any) -> None:
    """Run one stage, or go on with it.

    Args:
        name: One of `STAGES`, or `gold:` and any concept, with another seed after an @ ("gold:circle@9"), which is not
            shipped.
        work: The folder that all stages share.
        options: For the training loop.

    Raises:
        InputError: If there is no such stage, or an earlier one has not been run.
    """
    if name.startswith("gold:"):
        given, at, seed = name.removeprefix("gold:").partition("@")
        if at and not seed.isdecimal():
            raise InputError(f"{name!r} has no seed behind its @: write a whole number, gold:{given}@9")
        name = f"gold:{concept(given).name}{at}{seed}"
    elif name not in (*STAGES, *ALONE):
        raise InputError(f"{name!r} is no stage: write one of {', '.join((*STAGES, *ALONE))}")
    folder = work / name.replace("gold:", "without-")
    run_once(name, folder, lambda: _STAGES[name.partition(":")[0]](work, folder, name, options))


def _judge(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    which = 2 if name.endswith("2") else 1
    net, facts = train_judge(which, folder, vae=_vae_of(work), **options)
    save_folder(folder, {"type": "ShapesJudge", "which": which}, net.state_dict())
    return facts


def _vae_of(work: Path) -> Any:
    """The autoencoder that was trained here, or else the one that ships."""
    trained = work / "vae" if finished(work / "vae") else WEIGHTS / "pipeline" / "vae"
    return require("diffusers", extra="diffusion").AutoencoderKL.from_pretrained(trained).float().eval()


def _vae(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    vae, facts = train_autoencoder(folder, **options)
    vae.save_pretrained(folder)
    return facts


def _text(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    pair, _, facts = train_text(folder, read_judge(_before(work, "judge")), **options)
    save_folder(folder, {"type": "ShapesContrast"}, pair.state_dict())
    return facts


def _tower(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    pair, facts = train_tower(folder, read_judge(_before(work, "judge")), load_contrast(), **options)
    save_folder(folder, {"type": "ShapesContrast"}, _of_images(pair))
    return facts


def _latents(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    data = _data(work)
    return {"images": len(data.latents), "captions": data.texts.shape[1], "distinct": len(data.embeddings)}


def _unet(work: Path, folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    gold, _, seed = name.removeprefix("gold:").partition("@") if name.startswith("gold:") else (None, "", "")
    own = int(seed) if seed else DENOISER.seed + (gold is None)
    short = replace(DENOISER, stage=name, steps=SHORT_STEPS, seed=own)
    recipe = DENOISER if name == "unet" else short
    _before(work, "latents")
    data = _data(work).without(gold)
    unet, facts = train_denoiser(data, folder, recipe, **options)
    unet.half().save_pretrained(folder)
    return facts | {"without": [gold] if gold else []}


_STAGES = {
    "judge": _judge,
    "judge2": _judge,
    "vae": _vae,
    "text": _text,
    "tower": _tower,
    "latents": _latents,
    "unet": _unet,
    "seed2": _unet,
    "gold": _unet,
}


def _before(work: Path, name: str) -> Path:
    if not finished(work / name):
        raise InputError(f"{work / name} is not finished: run  python -m efface_worlds.shapes.training {name}  first")
    return work / name


def _data(work: Path) -> LatentSet:
    """The latents; autoencoder and text encoder are those that were trained here, or else those that ship."""
    pair = read_pair(work / "text") if finished(work / "text") else load_contrast()
    return make_latents(_vae_of(work), pair.text, build_tokenizer(), work / "latents")


def read_judge(folder: Path) -> JudgeNetwork:
    """A judge from its folder."""
    config, tensors = load_folder(folder, expect="ShapesJudge")
    with reading(folder):
        net = NETWORKS[config["which"]]()
        net.load_state_dict(tensors)
    return net.eval()


def read_pair(folder: Path) -> ContrastivePair:
    """The contrastive pair from its folder."""
    pair = ContrastivePair(build_text_encoder(build_tokenizer()))
    tensors = load_folder(folder, expect="ShapesContrast")[1]
    with reading(folder):
        pair.load_state_dict(tensors)
    return pair.eval()


def ship(work: Path, weights: Path, gold: Path) -> None:
    """Copy what is finished: the judges, the pipeline and the contrastive pair, and beside them the gold models."""
    before = read_facts(weights) if (weights / "training.json").is_file() else {}
    facts = {name: value for name, value in before.items() if name != "measured"}
    for name, folder in (("judge", "judge1"), ("judge2", "judge2")):
        if finished(work / name):
            config, tensors = load_folder(work / name, expect="ShapesJudge")
            save_folder(weights / folder, {"type": config["type"], "which": config["which"]}, tensors)
            facts[name] = read_facts(work / name)
    if finished(work / "unet"):
        _ship_pair_and_pipeline(work, weights, facts)
    if finished(work / "tower"):
        _, tensors = load_folder(work / "tower", expect="ShapesContrast")
        save_folder(weights / "contrast", {"type": "ShapesContrast"}, tensors)
        facts["tower"] = read_facts(work / "tower")
    if {**facts, "measured": before.get("measured")} == before:
        facts = before  # the same models: what was measured still holds
    write_json(weights / "training.json", facts)
    for folder in sorted(work.iterdir()):
        if folder.name.startswith(("without-", "seed2")) and "@" not in folder.name and finished(folder):
            _ship_gold(folder, gold / folder.name)


def _of_images(pair: ContrastivePair) -> dict[str, Any]:
    """What the pair has beside the text encoder, which ships with the pipeline."""
    return {name: value for name, value in pair.state_dict().items() if not name.startswith("text.")}


def _ship_pair_and_pipeline(work: Path, weights: Path, facts: dict[str, Any]) -> None:
    diffusers = require("diffusers", extra="diffusion")
    pair = read_pair(_before(work, "text"))
    save_folder(weights / "contrast", {"type": "ShapesContrast"}, _of_images(pair))
    facts.pop("tower", None)
    with quiet_transformers():
        pipeline = diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL.from_pretrained(_before(work, "vae")).half(),
            text_encoder=pair.text,
            tokenizer=build_tokenizer(),
            unet=_read_unet(_before(work, "unet")).half(),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(weights / "pipeline")
    for part in ("vae", "unet"):
        forget_origin(weights / "pipeline" / part / "config.json")
    facts |= {name: read_facts(work / name) for name in ("vae", "text", "latents", "unet")}


def _read_unet(folder: Path) -> Any:
    return require("diffusers", extra="diffusion").UNet2DConditionModel.from_pretrained(folder)


def _ship_gold(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "training.json"):
        (target / name).write_bytes((folder / name).read_bytes())
