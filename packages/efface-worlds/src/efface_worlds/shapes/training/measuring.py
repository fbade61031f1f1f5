"""Stage `measure`: what was trained, measured, and written into `training.json` beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import write_json
from efface_worlds.shapes.acceptance import nearness, presence_auroc
from efface_worlds.shapes.concepts import FACTORS
from efface_worlds.shapes.generation import GUIDANCE, STEPS, generate
from efface_worlds.shapes.judge import Judge, Verdict
from efface_worlds.shapes.scenes import Scenes
from efface_worlds.shapes.shipped import WEIGHTS, load_judge, load_shapes_pipeline
from efface_worlds.shapes.world import labels_of, make_shapes, prompts_for

RENDERINGS, IMAGES = 4000, 300


def measure(weights: Path = WEIGHTS, *, renderings: int = RENDERINGS, images: int = IMAGES) -> dict[str, Any]:
    """Measure the shipped judges, text encoder, VAE and pipeline, and add the figures to `training.json`.

    Returns:
        The figures: shares of agreement by factor; confusion matrices with a row for the truth; AUROC by concept.
    """
    pipeline = load_shapes_pipeline(folder=weights / "pipeline")
    judges = {f"judge{which}": load_judge(which, folder=weights / f"judge{which}") for which in (1, 2)}
    world = make_shapes(renderings, seed=31, split="test", two_objects=0.0, balanced=True)
    prompts = prompts_for(n=images, seed=33)
    drawn = generate(pipeline, prompts.texts, seed=35)
    encoder = (pipeline.text_encoder, pipeline.tokenizer)
    families = [c.name for values in FACTORS.values() for c in values if c.family]
    figures = {
        "judges": {name: _on_renderings(judge, world.images, world.scenes) for name, judge in judges.items()},
        "reconstructions": _agreement(judges["judge1"].judge(_reconstructed(pipeline.vae, world.images)), world.scenes),
        "presence_auroc": {factor: presence_auroc(*encoder, factor=factor) for factor in FACTORS},
        "siblings_and_strangers": {name: nearness(*encoder, name) for name in families},
        "generated": {
            "images": images,
            "steps": STEPS,
            "guidance": GUIDANCE,
            **{name: _agreement(judge.judge(drawn), prompts.scenes) for name, judge in judges.items()},
            "by_concept": _by_concept(judges["judge1"].judge(drawn), prompts.scenes),
        },
    }
    path = weights / "training.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"measured": figures})
    return figures


def _on_renderings(judge: Judge, images: Tensor, scenes: Scenes) -> dict[str, Any]:
    verdict = judge.judge(images)
    return {
        "renderings": len(images),
        "agreement": _agreement(verdict, scenes),
        "confusion": confusion(verdict, scenes),
    }


def confusion(verdict: Verdict, scenes: Scenes) -> dict[str, list[list[int]]]:
    """Confusion matrices by factor: rows are the truth, columns the verdict; of objects the last column is none."""
    result = {}
    for factor, values in FACTORS.items():
        found: Tensor = getattr(verdict, factor).argmax(1)
        width = getattr(verdict, factor).shape[1]
        cells = torch.bincount(labels_of(scenes, factor) * width + found, minlength=len(values) * width)
        result[factor] = cells.reshape(len(values), width).tolist()
    return result


def _agreement(verdict: Verdict, scenes: Scenes) -> dict[str, float]:
    return {factor: round(float(hits.float().mean()), 4) for factor, hits in verdict.agrees(scenes).items()}


def _by_concept(verdict: Verdict, scenes: Scenes) -> dict[str, list[int]]:
    """Agreeing images and all images of each concept."""
    agrees, result = verdict.agrees(scenes), {}
    for factor, values in FACTORS.items():
        for label, value in enumerate(values):
            rows = labels_of(scenes, factor) == label
            result[value.name] = [int(agrees[factor][rows].sum()), int(rows.sum())]
    return result


@torch.no_grad()
def _reconstructed(vae: Any, images: Tensor) -> Tensor:
    parts = (vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample for x in images.split(250))
    return (torch.cat(list(parts)) / 2 + 0.5).clamp(0, 1)
