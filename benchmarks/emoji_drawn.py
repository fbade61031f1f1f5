"""What pipelines of the emoji world draw besides single large objects: what they never saw, pairs, and small objects.

python -m benchmarks.emoji_drawn [gold] [pairs] [small] [--images 4] [--others 20] [--steps 15]

`gold`: each variant that was trained without something is asked for that, beside the pipeline that ships, in plain
prompts (`--images` of each concept, of a style four times as many), and for `--others` concepts that both saw. What a
picture shows instead is not asked. `pairs`: two objects, in plain prompts. `small`: one, in captions of training that
call it small, of which many tell neither style nor background: these are not asked. Rare concepts are asked for as
often as others. Where a judge cannot say, it does not see. Intervals are over concepts, or Wilson's where all answers
are the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import table
from efface.stats.intervals import bootstrap_interval, wilson_interval
from efface_worlds import emoji
from efface_worlds.emoji.captions import caption
from efface_worlds.emoji.scenes import NONE, Scenes, sample_scenes
from efface_worlds.emoji.world import Prompts

_SEED = 6_100_003
_OF_STYLES = 4
"""Pictures of a style, for one of a thing: it has no siblings to be averaged with."""
_PAIRS = 200
_SMALL_WORDS = ("small", "little", "tiny")


def percent(hits: Tensor, groups: Tensor) -> str:
    """A share in per cent, with its interval over groups."""
    same = bool((hits == hits[0]).all()) or len(groups.unique()) == 1
    values = hits.double().numpy()
    i = wilson_interval(float(hits.sum()), len(hits)) if same else bootstrap_interval(values, groups=groups.numpy())
    return f"{100 * i.value:.1f} [{100 * i.low:.1f}, {100 * i.high:.1f}]"


def asked_for(names: Sequence[str], images: int) -> tuple[list[str], Tensor]:
    """Plain prompts for each concept, and which concept each is for."""
    texts: list[str] = []
    for i, name in enumerate(names):
        texts += emoji.prompts_for(name, images, seed=_SEED + i).texts
    return texts, torch.arange(len(names)).repeat_interleave(images)


def gold_table(variant: str, images: int, others: int, steps: int) -> None:
    """How often a variant and the pipeline that ships are seen to draw what it never saw, and what both saw."""
    unseen = emoji.unseen(variant)
    styles = [name for name in unseen if emoji.concept(name).factor == "style"]
    things = [name for name in unseen if emoji.concept(name).factor == "object"]
    both = [c.name for c in emoji.CONCEPTS if not c.profession and c.name not in {*unseen, *emoji.left_out()}]
    chosen = torch.randperm(len(both), generator=torch.Generator().manual_seed(_SEED)).tolist()[:others]
    rows = {"things it never saw": (things, images), "things that both saw": ([both[i] for i in chosen], images)}
    rows |= {f"style {name}": ([name], _OF_STYLES * images) for name in styles}
    pipelines = {"ships": emoji.load_emoji_pipeline(), variant: emoji.load_emoji_pipeline(variant)}
    judges = {f"judge {which}": emoji.load_judge(which) for which in (1, 2)}
    lines, by_thing = [], {}
    for title, (names, each) in rows.items():
        if not names:
            continue
        texts, groups = asked_for(names, each)
        drawn = {p: emoji.generate(pipe, texts, seed=_SEED, steps=steps) for p, pipe in pipelines.items()}
        for judge, asked in judges.items():
            seen = {p: shown(asked.judge(pictures), names, groups) for p, pictures in drawn.items()}
            lines.append((title, judge, len(texts), *(percent(hits, groups) for hits in seen.values())))
            if title.startswith("things it"):
                by_thing[judge] = {n: int(seen[variant][groups == i].sum()) for i, n in enumerate(names)}
    table(f"{variant}: never saw {', '.join(unseen)}; seen, per cent", ("asked for", "", "n", *pipelines), lines)
    for judge, hits in by_thing.items():
        print(f"{judge}, of {images} pictures each:", ", ".join(f"{n} {h}" for n, h in hits.items() if h) or "none")


def shown(verdict: Any, names: Sequence[str], groups: Tensor) -> Tensor:
    """Whether each picture for sure shows what it was asked for."""
    return torch.cat([verdict[groups == i].shows(name) == 1 for i, name in enumerate(names)])


def layout_table(section: str, steps: int) -> None:
    """Shares of pictures of two objects, or of a small one, in which the judges see what was asked for."""
    prompts = _pairs() if section == "pairs" else _small()
    pictures = emoji.generate(emoji.load_emoji_pipeline(), prompts.texts, seed=_SEED, steps=steps)
    own = prompts.scenes.objects[:, 0]
    lines = []
    for which in (1, 2):
        verdict = emoji.load_judge(which).judge(pictures)
        right = verdict.agrees(prompts.scenes)
        as_many = verdict.count == (prompts.scenes.objects != NONE).sum(1)
        told = right if section == "pairs" else {name: right[name] for name in ("object", "subgroup")}
        found = {"as many": verdict.known & as_many, **told, "cannot say": ~verdict.known}
        lines.append((f"judge {which}", len(pictures), *(percent(hits, own) for hits in found.values())))
    table(f"{section}: right, per cent", ("", "n", *found), lines)


def _pairs() -> Prompts:
    scenes = _plain_skin(sample_scenes(_PAIRS, generator=_generator(), two_objects=1.0, balanced=True, without=_left()))
    return Prompts(caption(scenes, reader="plain", synonyms=False), scenes)


def _small() -> Prompts:
    more = sample_scenes(
        20 * _PAIRS, generator=_generator(), two_objects=0.0, small=1.0, balanced=True, without=_left()
    )
    scenes = _plain_skin(more)
    texts = caption(scenes, reader="train", seed=_SEED, synonyms=False)
    rows = [i for i, text in enumerate(texts) if {*text.split()} & {*_SMALL_WORDS}][:_PAIRS]
    return Prompts([texts[i] for i in rows], scenes[torch.tensor(rows)])


def _left() -> tuple[str, ...]:
    return tuple(emoji.left_out())


def _plain_skin(scenes: Scenes) -> Scenes:
    return replace(scenes, tones=torch.full_like(scenes.tones, NONE))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(_SEED)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ("gold", "pairs", "small")
    parser.add_argument("sections", nargs="*", default=sections, metavar="SECTION", help=", ".join(sections))
    for option, value in {"images": 4, "others": 20, "steps": 15}.items():
        parser.add_argument(f"--{option}", type=int, default=value, help="(default: %(default)s)")
    args = parser.parse_args()
    for section in args.sections:
        if section == "gold":
            for variant in [v for v in emoji.emoji_variants() if emoji.unseen(v)]:
                gold_table(variant, args.images, args.others, args.steps)
        else:
            layout_table(section, args.steps)


if __name__ == "__main__":
    main()
