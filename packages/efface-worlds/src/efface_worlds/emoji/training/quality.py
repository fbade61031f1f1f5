"""Stage `quality`: what the pipeline draws, by judges that it was not trained with, into `weights/quality.json`.

Each concept is asked for in each style, by its own name in the plain template; places are the pipeline's own choice.
Then by each of its other words, those of training ("read") and others ("unread"). Intervals are over concepts: pictures
of one concept are no independent tries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface._io import write_json
from efface.stats.intervals import bootstrap_interval, wilson_interval
from efface_worlds.emoji.captions import caption, prompt
from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, STYLES
from efface_worlds.emoji.generation import GUIDANCE, STEPS, generate
from efface_worlds.emoji.judge import Judge, Verdict, subgroup_of
from efface_worlds.emoji.nearest import NearestJudge
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.emoji.training.measuring import every_drawing
from efface_worlds.emoji.world import Prompts

EACH = 2
"""Pictures a concept and style."""

LEAST = 0.6
"""Share of its pictures in which a concept must be seen to stay in the vocabulary."""

_SEED = 5_000_011


def asked(each: int = EACH, seed: int = _SEED) -> Scenes:
    """One large object a scene, every concept `each` times in every style, in yellow skin; grounds by seed."""
    first, style = every_drawing(each)
    random = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(len(first), generator=random, two_objects=0.0, small=0.0, balanced=True)
    objects = torch.stack([first, torch.full_like(first, NONE)], 1)
    return replace(scenes, objects=objects, style=style, tones=torch.full_like(scenes.tones, NONE))


def measure_quality(
    pipeline: Any, judges: Mapping[str, Judge], path: Path, *, each: int = EACH, steps: int = STEPS
) -> dict[str, Any]:
    """Draw, judge, and write the figures.

    Args:
        pipeline: The pipeline that ships.
        judges: Name -> judge; the nearest drawing is asked besides.
        path: Where the figures go.
        each: Pictures a concept and style.
        steps: Denoising steps.

    Returns:
        The figures: shares with 95 % intervals by judge, hits by concept, the concepts that are left out, the shares
        without these, of pictures that did not choose them, and those of other words.
    """
    scenes = asked(each)
    begun = time.process_time()
    pictures = generate(pipeline, caption(scenes, reader="plain", synonyms=False), seed=_SEED, steps=steps)
    speed = round(len(scenes) / (time.process_time() - begun), 2)
    sampling = {"steps": steps, "guidance": GUIDANCE, "pictures_a_cpu_second": speed}
    figures = sampling | figures_of(pictures, scenes, judges)
    told, meant = other_words(each)
    drawn = generate(pipeline, told.texts, seed=_SEED, steps=steps)
    figures["words"] = figures_of_words(drawn, told, meant, judges)
    write_json(path, figures)
    return figures


def other_words(each: int = EACH, seed: int = _SEED) -> tuple[Prompts, list[tuple[str, str]]]:
    """Plain prompts by every word of things but their names, styles and grounds by seed; kind and word of each."""
    known = [("read", i, w) for i, c in enumerate(CONCEPTS) for w in c.synonyms]
    known += [("unread", i, w) for i, c in enumerate(CONCEPTS) for w in c.unread]
    asked_for = [each_word for each_word in known for _ in range(each)]
    random = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(len(asked_for), generator=random, two_objects=0.0, small=0.0, balanced=True)
    first = torch.tensor([i for _, i, _ in asked_for])
    scenes = replace(scenes, objects=torch.stack([first, torch.full_like(first, NONE)], 1))
    scenes = replace(scenes, tones=torch.full_like(scenes.tones, NONE))
    told = zip(asked_for, scenes.style.tolist(), scenes.background.tolist(), strict=True)
    texts = [prompt(word, style=STYLES[s].name, background=BACKGROUNDS[b].name) for (_, _, word), s, b in told]
    return Prompts(texts, scenes), [(kind, word) for kind, _, word in asked_for]


def figures_of_words(
    pictures: Tensor, told: Prompts, meant: Sequence[tuple[str, str]], judges: Mapping[str, Judge]
) -> dict[str, Any]:
    """Shares of the pictures of words that show what these mean, by kind of word and judge, and hits by word."""
    own = told.scenes.objects[:, 0]
    hits = {name: answers(judge.judge(pictures), told.scenes)["top1"] for name, judge in judges.items()}
    found: dict[str, Any] = {"pictures": len(meant)}
    for kind in ("read", "unread"):
        rows = torch.tensor([each == kind for each, _ in meant])
        found[kind] = {name: _interval(right[rows], own[rows]) for name, right in hits.items()}
    by_word: dict[str, dict[str, dict[str, int]]] = {}
    for i, (_, word) in enumerate(meant):
        of_concept = by_word.setdefault(CONCEPTS[int(own[i])].name, {})
        counts = of_concept.setdefault(word, {"of": 0} | dict.fromkeys(judges, 0))
        counts["of"] += 1
        for name, right in hits.items():
            counts[name] += int(right[i])
    return found | {"by_word": by_word}


def figures_of(pictures: Tensor, scenes: Scenes, judges: Mapping[str, Judge]) -> dict[str, Any]:
    """The figures of pictures, which were asked to show these scenes of one object."""
    right = {name: answers(judge.judge(pictures), scenes) for name, judge in judges.items()}
    right["nearest"] = _nearest(pictures, scenes)
    top1 = {name: found["top1"] for name, found in right.items()}
    by_concept = _by_concept(top1, scenes)
    return {
        "pictures": len(scenes),
        "judges": {name: _shares(found, scenes) for name, found in right.items()},
        "by_concept": by_concept,
        "left_out": left_out(by_concept, tuple(judges)),
        "kept": _kept(right, scenes, tuple(judges)),
    }


def answers(verdict: Verdict, scenes: Scenes) -> dict[str, Tensor]:
    """Whether each answer is right, `(n,)` each; where a judge cannot say, none of its answers is.

    `"top1"`: the likeliest of all objects, and no second one. `"top5"`, `"subgroup"`: of the first object.
    """
    own, first, agrees = scenes.objects[:, 0], verdict.object[:, 0], verdict.agrees(scenes)
    top5 = (first[:, : len(CONCEPTS)].topk(5).indices == own[:, None]).any(1)
    same = {name: agrees[name] for name in ("subgroup", "style", "background")}
    return {"top1": agrees["object"], "top5": verdict.known & top5, **same, "can say": verdict.known}


def _nearest(pictures: Tensor, scenes: Scenes) -> dict[str, Tensor]:
    found, own = NearestJudge().judge(pictures), scenes.objects[:, :1]
    hits = {
        "top1": found.object[:, 0] == own[:, 0],
        "top5": (found.object == own).any(1),
        "subgroup": subgroup_of(found.object[:, 0]) == subgroup_of(own[:, 0]),
        "style": found.style == scenes.style,
        "background": found.background == scenes.background,
    }
    return {name: each & found.known for name, each in hits.items()} | {"can say": found.known}


def _shares(found: Mapping[str, Tensor], scenes: Scenes) -> dict[str, Any]:
    own = scenes.objects[:, 0]
    whole: dict[str, Any] = {name: _interval(hits, own) for name, hits in found.items()}
    styles = {value.name: scenes.style == i for i, value in enumerate(STYLES)}
    whole["top1_by_style"] = {name: _interval(found["top1"][rows], own[rows]) for name, rows in styles.items()}
    people = torch.tensor([bool(value.profession) for value in CONCEPTS])[own]
    whole["top1_of_things"] = _interval(found["top1"][~people], own[~people])
    whole["top1_of_people"] = _interval(found["top1"][people], own[people])
    return whole


def _interval(hits: Tensor, groups: Tensor) -> list[float] | None:
    """Share, and the ends of its interval; of equal answers, which resampling cannot tell apart, Wilson's."""
    if not len(hits):
        return None
    if bool((hits == hits[0]).all()):
        interval = wilson_interval(float(hits.sum()), len(hits))
    else:
        interval = bootstrap_interval(hits.double().numpy(), groups=groups.numpy())
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def _by_concept(top1: Mapping[str, Tensor], scenes: Scenes) -> dict[str, dict[str, int]]:
    own = scenes.objects[:, 0]
    of = torch.bincount(own, minlength=len(CONCEPTS)).tolist()
    hits = {name: torch.bincount(own[right], minlength=len(CONCEPTS)).tolist() for name, right in top1.items()}
    return {c.name: {name: each[i] for name, each in hits.items()} | {"of": of[i]} for i, c in enumerate(CONCEPTS)}


def left_out(by_concept: Mapping[str, Mapping[str, int]], judges: Sequence[str]) -> list[str]:
    """Concepts that the judges, on average, see in too few of the pictures that ask for them."""
    tried = {name: hits for name, hits in by_concept.items() if hits["of"]}
    share = {name: sum(hits[j] for j in judges) / len(judges) / hits["of"] for name, hits in tried.items()}
    return [name for name, value in share.items() if value < LEAST]


def _kept(right: Mapping[str, Mapping[str, Tensor]], scenes: Scenes, judges: Sequence[str]) -> dict[str, Any]:
    """The shares without the concepts that are left out: in each half of the pictures, without those of the other's."""
    own = scenes.objects[:, 0]
    half = _first_half(own)
    rows = torch.zeros(len(own), dtype=torch.bool)
    for chosen in (half, ~half):
        found = _by_concept({name: right[name]["top1"][chosen] for name in judges}, scenes[chosen])
        stays = torch.ones(len(CONCEPTS), dtype=torch.bool)
        stays[[i for i, c in enumerate(CONCEPTS) if c.name in set(left_out(found, judges))]] = False
        rows |= ~chosen & stays[own]
    if not rows.any():
        return {}
    keys = ("top1", "subgroup", "style")
    shares = {name: {key: _interval(found[key][rows], own[rows]) for key in keys} for name, found in right.items()}
    return {"pictures": int(rows.sum()), **shares}


def _first_half(own: Tensor) -> Tensor:
    """The first half of the pictures of each concept, `(n,)`."""
    same = own[:, None] == own
    before = torch.ones_like(same).tril(-1) & same
    return before.sum(1) < same.sum(1) / 2
