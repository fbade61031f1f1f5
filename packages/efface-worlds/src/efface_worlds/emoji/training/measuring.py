"""Stage `measure`: what the judges are worth on held-out renderings, into `training.json`; and whom they confuse."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import write_json
from efface_worlds.emoji.concepts import CONCEPTS, STYLES, TONES
from efface_worlds.emoji.corruption import TRAINED, UNSEEN, corrupted
from efface_worlds.emoji.drawing import render, sprite
from efface_worlds.emoji.judge import Judge, Verdict, subgroup_of
from efface_worlds.emoji.nearest import NearestJudge
from efface_worlds.emoji.networks import NETWORKS, NOTHING
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.emoji.shipped import load_judge
from efface_worlds.emoji.training.augmenting import through
from efface_worlds.emoji.training.judges import truth_of

KINDS: dict[str, dict[str, Any]] = {
    "large": {"two_objects": 0.0, "small": 0.0},
    "small": {"two_objects": 0.0, "small": 1.0},
    "two": {"two_objects": 1.0, "small": 0.0},
}
_SEED = 4_000_001
_ALIKE = 2 / 255  # root of the mean square difference of two drawings of 40 x 40 below which nobody can tell them apart


def every_drawing(each: int) -> tuple[Tensor, Tensor]:
    """Labels of every concept in every style, `each` times: the concept's and the style's, `(n,)` each."""
    numbers = torch.arange(len(CONCEPTS) * len(STYLES) * each)
    return numbers % len(CONCEPTS), numbers // len(CONCEPTS) % len(STYLES)


def held_out(kind: str, each: int = 1, seed: int = _SEED) -> Scenes:
    """Scenes of one kind in which every concept is drawn `each` times in every style; places, grounds, tints by seed.

    Training drew the same sprites, in other places and sizes, on other tints, beside other objects.
    """
    n = len(CONCEPTS) * len(STYLES) * each
    scenes = sample_scenes(n, generator=torch.Generator().manual_seed(seed), balanced=True, **KINDS[kind])
    first, style = every_drawing(each)
    person = torch.tensor([bool(value.profession) for value in CONCEPTS])[first]
    bare = torch.tensor([value.name == "black and white" for value in STYLES])[style]
    tone = torch.where(person & ~bare, torch.randint(-1, len(TONES), (n,), generator=_random(seed)), NONE)
    second = torch.where(bare, NONE, scenes.tones[:, 1])
    objects = torch.stack([first, scenes.objects[:, 1]], 1)
    return replace(scenes, objects=objects, style=style, tones=torch.stack([tone, second], 1))


def measure(weights: Path, vae: Any) -> dict[str, Any]:
    """Measure the shipped judges and the untrained one; figures go to `training.json`, pairs to `confusions.json`.

    Args:
        weights: Folder of the judges; one that is not there yet is left out.
        vae: The autoencoder that renderings go through.

    Returns:
        Shares of right answers by kind of picture, rendered and through the autoencoder.
    """
    names = {f"judge{which}": which for which in NETWORKS if (weights / f"judge{which}").is_dir()}
    judges = {name: load_judge(which, folder=weights / name) for name, which in names.items()}
    figures: dict[str, Any] = {name: {"outside": _outside(judge)} for name, judge in judges.items()}
    figures["nearest"] = {}
    confused: dict[str, Any] = {name: {} for name in judges}
    for kind in KINDS:
        scenes = held_out(kind, each=2 if kind == "large" else 1)
        drawn = render(scenes)
        for side, pictures in {"rendered": drawn, "through the autoencoder": passed(vae, drawn)}.items():
            for name, judge in judges.items():
                verdict = judge.judge(pictures)
                figures[name].setdefault(kind, {})[side] = shares(verdict, scenes)
                if kind == "large":
                    confused[name][side] = confusions(verdict, scenes)
            if kind != "two":
                figures["nearest"].setdefault(kind, {})[side] = _nearest(pictures, scenes)
    figures["drawn alike"] = {style: [list(names) for names in found] for style, found in drawn_alike().items()}
    write_json(weights / "confusions.json", confused)
    path = weights / "training.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"measured": figures})
    return figures


def passed(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures as the autoencoder gives them back."""
    return torch.cat([through(vae, part) for part in pictures.split(128)])


def shares(verdict: Verdict, scenes: Scenes) -> dict[str, Any]:
    """Shares of right answers: of each object that is there, and of the pictures."""
    truth = truth_of(scenes)
    there = truth.object != NOTHING
    own, chances = truth.object[there], verdict.object[..., :NOTHING][there]
    best = chances.topk(5).indices
    said = verdict.object[there].argmax(-1)
    toned = torch.isin(truth.object, torch.tensor([i for i, c in enumerate(CONCEPTS) if c.profession])) & there
    style = scenes.style[:, None].expand(-1, 2)[there]
    return {
        "renderings": len(scenes),
        "top1": _rounded(said == own),
        "top5": _rounded((best == own[:, None]).any(1)),
        "subgroup": _rounded(verdict.subgroup[there].argmax(-1) == subgroup_of(own)),
        "top1_by_style": {value.name: _rounded((said == own)[style == i]) for i, value in enumerate(STYLES)},
        "top1_of_people": _rounded((verdict.object.argmax(-1) == truth.object)[toned]),
        "tone_of_people": _rounded((verdict.tone.argmax(-1) == truth.tone)[toned]),
        "count": _rounded(verdict.count == truth.count),
        "style": _rounded(verdict.style.argmax(1) == scenes.style),
        "background": _rounded(verdict.background.argmax(1) == scenes.background),
        "cannot_say": _rounded(~verdict.known),
        "agrees": {factor: _rounded(hits) for factor, hits in verdict.agrees(scenes).items()},
    }


def confusions(verdict: Verdict, scenes: Scenes) -> list[dict[str, Any]]:
    """What single objects were taken for, by style, most often first."""
    said, own = verdict.object[:, 0].argmax(-1), scenes.objects[:, 0]
    names = [*(value.name for value in CONCEPTS), "none"]
    wrong = (said != own).nonzero()[:, 0].tolist()
    found = Counter((STYLES[scenes.style[i]].name, names[own[i]], names[said[i]]) for i in wrong)
    asked = Counter(zip(scenes.style.tolist(), own.tolist(), strict=True))
    each = max(asked.values(), default=0)
    return [
        {"style": style, "shown": shown, "said": taken, "times": times, "of": each}
        for (style, shown, taken), times in found.most_common()
    ]


def drawn_alike() -> dict[str, list[tuple[str, ...]]]:
    """By style, the sets of concepts whose drawings nobody can tell apart in 40 x 40 pixels."""
    return {value.name: _alike(style) for style, value in enumerate(STYLES)}


def _alike(style: int) -> list[tuple[str, ...]]:
    scenes = held_out("large")
    scenes = scenes[scenes.style == style]
    plain = replace(scenes, background=torch.zeros_like(scenes.style), tones=torch.full_like(scenes.tones, NONE))
    tiles = torch.nn.functional.interpolate(sprite(plain), (40, 40), mode="bilinear", antialias=True).flatten(1)
    near = (torch.cdist(tiles, tiles) <= _ALIKE * tiles.shape[1] ** 0.5).tolist()
    groups = {tuple(i for i, hit in enumerate(row) if hit) for row in near}
    labels = plain.objects[:, 0].tolist()
    return sorted(tuple(CONCEPTS[labels[i]].name for i in group) for group in groups if len(group) > 1)


def _outside(judge: Judge, broken: int = 300) -> dict[str, Any]:
    """How often it cannot say of broken pictures, and rightly says that an empty ground shows nothing."""
    empty = judge.judge(corrupted(broken, "empty", seed=3))
    return {
        "pictures": broken,
        "trained": list(TRAINED),
        "cannot_say": {
            name: _rounded(~judge.judge(corrupted(broken, name, seed=3)).known) for name in (*TRAINED, *UNSEEN)
        },
        "empty": _rounded(empty.known & (empty.count == 0)),
    }


def _nearest(pictures: Tensor, scenes: Scenes) -> dict[str, Any]:
    found, own = NearestJudge().judge(pictures), scenes.objects[:, :1]
    return {
        "renderings": len(scenes),
        "top1": _rounded(found.object[:, :1] == own),
        "top5": _rounded((found.object == own).any(1)),
        "subgroup": _rounded(subgroup_of(found.object[:, 0]) == subgroup_of(own[:, 0])),
        "style": _rounded(found.style == scenes.style),
        "background": _rounded(found.background == scenes.background),
        "cannot_say": _rounded(~found.known),
    }


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 1)


def _rounded(hits: Tensor) -> float | None:
    return round(float(hits.float().mean()), 4) if len(hits) else None
