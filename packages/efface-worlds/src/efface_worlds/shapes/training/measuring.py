"""Stage `measure`: what was trained, measured, and written into `training.json` beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import write_json
from efface_worlds.shapes.acceptance import nearness, presence_auroc
from efface_worlds.shapes.concepts import FACTORS, OBJECTS, index_of
from efface_worlds.shapes.corruption import TRAINED, UNSEEN, corrupted
from efface_worlds.shapes.generation import GUIDANCE, STEPS, generate
from efface_worlds.shapes.judge import Judge, Verdict
from efface_worlds.shapes.scenes import Scenes
from efface_worlds.shapes.shipped import WEIGHTS, load_judge, load_shapes_pipeline
from efface_worlds.shapes.world import ShapesWorld, labels_of, make_shapes, prompts_for, shows

RENDERINGS, IMAGES = 4000, 300


def measure(weights: Path = WEIGHTS, *, renderings: int = RENDERINGS, images: int = IMAGES) -> dict[str, Any]:
    """Measure the shipped judges, text encoder, VAE and pipeline, and add the figures to `training.json`.

    Returns:
        The figures: shares of agreement by factor; confusion matrices with a row for the truth; AUROC by concept.
    """
    pipeline = load_shapes_pipeline(folder=weights / "pipeline")
    judges = {f"judge{which}": load_judge(which, folder=weights / f"judge{which}") for which in (1, 2)}
    world, pairs = held_out(renderings)
    prompts = prompts_for(n=images, seed=33)
    drawn = generate(pipeline, prompts.texts, seed=35)
    encoder = (pipeline.text_encoder, pipeline.tokenizer)
    families = [c.name for values in FACTORS.values() for c in values if c.family]
    figures = {
        "judges": {name: judge_facts(judge, world, pairs) for name, judge in judges.items()},
        "reconstructions": _agreement(judges["judge1"].judge(_reconstructed(pipeline.vae, world.images)), world.scenes),
        "presence_auroc": {factor: presence_auroc(*encoder, factor=factor) for factor in FACTORS},
        "siblings_and_strangers": {name: nearness(*encoder, name) for name in families},
        "generated": {
            "images": images,
            "steps": STEPS,
            "guidance": GUIDANCE,
            **{name: _agreement(judge.judge(drawn), prompts.scenes) for name, judge in judges.items()},
            "cannot_say": {name: _rounded(~judge.judge(drawn).known) for name, judge in judges.items()},
            "by_concept": _by_concept(judges["judge1"].judge(drawn), prompts.scenes),
        },
    }
    path = weights / "training.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"measured": figures})
    return figures


def held_out(n: int, seed: int = 31) -> tuple[ShapesWorld, ShapesWorld]:
    """N renderings of one object and as many of two, in combinations that training leaves out too."""
    one, two = (make_shapes(n, seed=seed + i, split="test", two_objects=float(i), balanced=True) for i in range(2))
    return one, two


def judge_facts(judge: Judge, world: ShapesWorld, pairs: ShapesWorld, broken: int = 500) -> dict[str, Any]:
    """What a judge was checked on and how it did: inside of its domain, and how often it cannot say outside of it."""
    outside = {name: judge.judge(corrupted(broken, name, seed=3)) for name in (*TRAINED, *UNSEEN)}
    return {
        "one object": _inside(judge, world),
        "two objects": _inside(judge, pairs),
        "confusion": confusion(judge.judge(world.images), world.scenes),
        "outside": {
            "images": broken,
            "trained": list(TRAINED),
            "cannot_say": {name: _rounded(~verdict.known) for name, verdict in outside.items()},
        },
        "empty": _rounded((found := judge.judge(corrupted(broken, "empty", seed=3))).known & (found.count == 0)),
    }


def _inside(judge: Judge, world: ShapesWorld) -> dict[str, Any]:
    verdict = judge.judge(world.images)
    by_concept = {name: list(map(_rounded, answers(verdict, world.scenes, name))) for name in NAMES}
    bound = {name: list(map(_rounded, attributed(verdict, world.scenes, name))) for name in NAMES[: len(OBJECTS)]}
    return {
        "renderings": len(world),
        "agreement": _agreement(verdict, world.scenes),
        "cannot_say": _rounded(~verdict.known),
        "seen_and_false": by_concept,
        "coloured_seen_and_false": bound,
    }


NAMES = tuple(c.name for values in FACTORS.values() for c in values)


def answers(verdict: Verdict, scenes: Scenes, name: str) -> tuple[Tensor, Tensor]:
    """Whether a concept is seen where it is, and where it is not; of what cannot be said neither."""
    said, truly = verdict.shows(name) == 1, shows(scenes, name)
    return said[truly], said[~truly]


def attributed(verdict: Verdict, scenes: Scenes, name: str) -> tuple[Tensor, Tensor]:
    """Whether an object is seen in its own colour, and in the other object's colour where it does not have that."""
    right, wrong = [], []
    for colour, value in enumerate(FACTORS["colour"]):
        said = verdict.shows(value.name, name) == 1
        own = ((scenes.objects == index_of(name)) & (scenes.colours == colour)).any(1)
        right.append(said[own])
        wrong.append(said[shows(scenes, name) & shows(scenes, value.name) & ~own])
    return torch.cat(right), torch.cat(wrong)


def _rounded(hits: Tensor) -> float | None:
    return round(float(hits.float().mean()), 4) if len(hits) else None


def confusion(verdict: Verdict, scenes: Scenes) -> dict[str, list[list[int]]]:
    """Confusion matrices by factor, of scenes of one object: rows are the truth, columns the likeliest value.

    Of objects the last column is none; of two objects that are found the first counts.
    """
    result = {}
    for factor, values in FACTORS.items():
        chances: Tensor = getattr(verdict, factor)
        found = (chances if factor == "background" else chances[:, 0]).argmax(1)
        width = chances.shape[-1]
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
