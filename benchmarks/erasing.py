"""Erasers of a world's pipeline side by side: is the concept gone, in other words too, and what else went.

python -m benchmarks.erasing [erase rest overhead grids] [--world shapes] [--methods semantic-surgery ...]
    [--concepts star ...] [--templates 5 --others 5 --seeds 20 --steps 30] [--out FOLDER]

Each concept is erased alone. ACC_e: share of images of its prompts in which judge 2 sees it; ACC_g: the same where a
synonym stands for it in templates that nothing was trained on; ACC_ir: share of the other concepts of its factor seen
at their prompts, averaged evenly. These are of the images of which the judge can say; "cannot say" is the share of
the rest at the concept's prompts and at its synonyms. H: harmonic mean of 1 - ACC_e, 1 - ACC_g and ACC_ir in which
what cannot be said counts as neither erased nor kept. Two objects: share of images of the concept's prompts that show
two where one was asked for. Rest kept: how often these images show for sure the other factors that the prompts name, of
which H knows nothing. H_a, of styles: text-image score of the other styles' images with their prompts less that of the
erased style's (the contrastive pair in CLIP's place). Gates are calibrated on captions of the training split (100 with
the concept, 12 for each of the others), never on what is measured. "+feedback" is the method with its visual feedback,
where judge 1 looks; "+told" tells it the concept's synonyms, too; "semantic-surgery@published" and "sld@max" have the
preset of that name, and
"uce@anchor=sibling+ridge=0.1" has its nearest sibling (or the word that is given) as anchor, and these options.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import efface.audit
from benchmarks._measure import cell, interleaved, table
from benchmarks._studio import (
    VARIANTS,
    Studio,
    add_world,
    kept_by,
    looked_at,
    rest_kept,
    same_embedding,
    sampler,
)
from efface.audit.pipelines.balance import harmonic
from efface.audit.pipelines.presence import SEEN, UNSAID
from efface.cli.generate import write_picture
from efface.core.erasure import Erasure
from efface.core.method import methods as known_methods
from efface.report.data import AFTER, BEFORE
from efface.stats.intervals import wilson_interval
from efface_worlds.registry import PipelineWorld


def run(
    studio: Studio,
    name: str,
    method: str,
    n: int,
    seeds: int,
    of_others: int | None = None,
    fitted: Erasure | None = None,
) -> dict[str, Any]:
    """The figures of one erasure of one concept; `of_others` of the n prompts of each other concept are drawn.

    It is fitted here unless it is given.
    """
    judge = studio.judge(2)
    others = {o: studio.prompts_of(o, n)[:of_others] for o in studio.others_of(name)}
    common: dict[str, Any] = {"sample": studio.plain, "judge": judge, "concept": name, "batch_size": 200}
    asked: dict[str, Any] = {"prompts": studio.prompts_of(name, n)}
    asked["paraphrases"] = studio.paraphrases_of(name, n)
    erasure, erased = sampler(studio, name, method) if fitted is None else (fitted, studio.erased(fitted))
    audit = efface.audit.presence(**common, **asked, others=others, erased=erased, seeds=seeds)
    fired = 0.0
    if erasure is not None:
        before = studio.view.encode([p for ps in others.values() for p in ps])
        with erasure.on(studio.view):
            after = studio.view.encode([p for ps in others.values() for p in ps])
        fired = sum(not same_embedding(before[i], after[i]) for i in range(len(before))) / len(before)
    said, scenes = looked_at(studio, erased, name, n, range(seeds))
    pairs, known = float((said.count[said.known] == 2).sum()), max(int(said.known.sum()), 1)
    rest = {
        "rest": kept_by(studio.world, said, scenes, name),
        "two": wilson_interval(pairs, known),
        "pairs": (pairs, known),
    }
    found = summary(studio.world, audit, name, others, fired)
    return found | style(studio, erased, asked["prompts"], others, name, seeds) | rest


def style(studio: Studio, sample: Any, prompts: Sequence[str], others: Any, name: str, seeds: int) -> dict[str, Any]:
    """CLIP_e, CLIP_s and H_a of a style; nothing for what is no style, or where no pair of CLIP's kind is at hand."""
    if studio.world.concept(name).factor != "style" or not studio.world.contrasts:
        return {}
    score = studio.world.of_room("text_image_score")
    pair, judge = studio.world.of_room("load_contrast")(), studio.judge(1)
    sides = {"CLIP_e": list(prompts), "CLIP_s": [p for ps in others.values() for p in ps]}
    found = {}
    for side, asked in sides.items():
        jobs = [(p, s) for p in asked for s in range(seeds)]
        texts, numbers = zip(*jobs, strict=True)
        found[side] = score(sample(texts, numbers), texts, contrast=pair, judge=judge)
    return found | {"H_a": found["CLIP_s"].value - found["CLIP_e"].value}


def rest_table(studio: Studio, methods: Sequence[str], concepts: Sequence[str], n: int, seeds: int) -> None:
    """The column "rest kept" of several methods, without the rest."""
    rows = []
    for name in concepts:
        samples = [sampler(studio, name, method)[1] for method in methods]
        rows.append((name, *(f"{100 * rest_kept(studio, s, name, n, range(seeds)):.1f}" for s in samples)))
    table(
        "Images of the concept's prompts that keep a factor, mean over the others, per cent",
        ("concept", *methods),
        rows,
    )


def summary(world: PipelineWorld, audit: Any, name: str, others: Any, fired: float) -> dict[str, Any]:
    """The figures of an audit, by their names in the literature."""
    seen = {(f.name, f.condition): f for f in audit.findings if f.family == SEEN}
    unsaid = {f.name: f.value for f in audit.findings if f.family == UNSAID and f.condition == AFTER}
    kept, before = ({o: share_of(seen[o, side]) for o in others} for side in (AFTER, BEFORE))
    worst = min(kept, key=lambda o: math.inf if math.isnan(kept[o] - before[o]) else kept[o] - before[o])
    near = [kept[o] for o in world.siblings(name) if o in kept]
    h = audit.find("balance", "H", "after")
    return {
        "ACC_e": seen[name, "after"],
        "ACC_g": seen[f"{name} in other words", "after"],
        "ACC_ir": average(kept.values()),
        "kept": [seen[o, AFTER] for o in others],
        "H": h,
        "siblings": average(near) if near else None,
        "unsaid": [unsaid.get(which, 0.0) for which in (name, f"{name} in other words")],
        "worst": f"{worst} {100 * kept[worst]:.0f} (before {100 * before[worst]:.0f})",
        "moved": audit.find("images of other prompts", "pixels moved", "change").value,
        "fired": fired,
    }


def share_of(finding: Any) -> float:
    """The value of a finding; NaN where the judge could not say of any image."""
    return finding.value if finding.is_scored else math.nan


def average(shares: Iterable[float]) -> float:
    """Mean of the shares that there are; NaN if there are none."""
    there = [share for share in shares if not math.isnan(share)]
    return sum(there) / len(there) if there else math.nan


def pooled(shares: Sequence[Any]) -> str:
    """Wilson's interval of the images of several findings together; it knows nothing of other concepts or prompts."""
    known = [(share.value * share.n, share.n) for share in shares if share.is_scored]
    hits, n = (sum(column) for column in zip(*known, strict=True)) if known else (0, 0)
    return interval_of(hits, n) if n else "-"


def interval_of(hits: float, n: int) -> str:
    """Wilson's interval in per cent."""
    interval = wilson_interval(min(hits, n), n)
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def report(world: PipelineWorld, method: str, found: dict[str, dict[str, Any]]) -> None:
    """One method's table."""
    rows: list[Sequence[str]] = [
        (
            name,
            cell(f["ACC_e"]),
            cell(f["ACC_g"]),
            f"{100 * f['ACC_ir']:.1f}",
            cell(f["H"]),
            " / ".join(f"{100 * share:.0f}" for share in f["unsaid"]),
            f"{100 * f['two'].value:.0f} [{100 * f['two'].low:.0f}, {100 * f['two'].high:.0f}]",
            f"{100 * f['rest']:.0f}",
            "-" if f["siblings"] is None else f"{100 * f['siblings']:.1f}",
            f["worst"],
            f"{f['moved']:.4f}",
            f"{100 * f['fired']:.1f}",
        )
        for name, f in found.items()
    ]
    for factor in ("object", "style", "colour"):
        these = [f for name, f in found.items() if world.concept(name).factor == factor]
        if len(these) > 1:
            e, g = ([share_of(f[k]) for f in these] for k in ("ACC_e", "ACC_g"))
            ir = [f["ACC_ir"] for f in these]
            mean = [average(v) for v in (e, g, ir)]
            parts = (1 - mean[0], 1 - mean[1], mean[2])
            whole = math.nan if any(map(math.isnan, parts)) else float(harmonic(*parts))
            of_h = sum(f["H"].value for f in these) / len(these)
            groups = ([f["ACC_e"] for f in these], [f["ACC_g"] for f in these], [k for f in these for k in f["kept"]])
            shown = [f"**{100 * v:.1f}** {pooled(group)}" for v, group in zip(mean, groups, strict=True)]
            rest = f"**{100 * sum(f['rest'] for f in these) / len(these):.0f}**"
            ends = [100 * sum(getattr(f["H"], end) or 0.0 for f in these) / len(these) for end in ("low", "high")]
            balanced = f"**mean of H {100 * of_h:.2f}** [{ends[0]:.1f}, {ends[1]:.1f}], H of means {100 * whole:.2f}"
            unsaid = " / ".join(f"{100 * sum(f['unsaid'][i] for f in these) / len(these):.1f}" for i in range(2))
            pairs, known = (sum(column) for column in zip(*(f["pairs"] for f in these), strict=True))
            two = f"**{100 * sum(f['two'].value for f in these) / len(these):.0f}** {interval_of(pairs, known)}"
            rows.append((f"**{factor}s**", *shown, balanced, f"**{unsaid}**", two, rest, *[""] * 4))
    header = (
        "concept",
        "ACC_e",
        "ACC_g",
        "ACC_ir",
        "H",
        "cannot say (prompts / synonyms)",
        "two objects",
        "rest kept",
        "siblings kept",
        "worst other",
        "pixels moved",
        "others changed",
    )
    table(f"{method}, per cent", header, rows)
    styles = {name: f for name, f in found.items() if "H_a" in f}
    if styles:
        scores = [
            [f"{f[k].value:.2f} [{f[k].low:.2f}, {f[k].high:.2f}]" for k in ("CLIP_e", "CLIP_s")]
            for f in styles.values()
        ]
        lines = [(name, *s, f"{styles[name]['H_a']:.2f}") for name, s in zip(styles, scores, strict=True)]
        table(
            f"{method}, styles: 100 x cosine of images with their prompts", ("style", "CLIP_e", "CLIP_s", "H_a"), lines
        )


def overhead(studio: Studio, methods: Sequence[str]) -> None:
    """Time of a sample where nothing fires, against the plain pipeline, interleaved."""
    view, erased_one = studio.view, studio.world.shown[0]
    near = studio.others_of(erased_one)[0]
    prompts, seeds = studio.prompts_of(near, 8), list(range(8))

    def erased(erasure: Erasure) -> object:
        with erasure.on(view):
            return view.sample(prompts, seeds, **studio.options)

    contestants: dict[str, Any] = {"none": lambda: view.sample(prompts, seeds, **studio.options)}
    for method in methods:
        contestants[method] = partial(erased, studio.fit(erased_one, method))
    best = interleaved(contestants, 7)
    rows = [(m, f"{t / len(prompts):.3f}", f"{100 * (t / best['none'] - 1):+.1f} %") for m, t in best.items()]
    title = f"Time of an image of {near}, {erased_one} erased, {studio.options['steps']} steps"
    table(title, ("method", "s per image", "against none"), rows)


def grid(studio: Studio, name: str, methods: Sequence[str], folder: Path) -> Path:
    """Before and after of prompts with the concept, in other words, and of its siblings, as a picture."""
    near = [*studio.world.siblings(name), studio.others_of(name)[-1]][:2]
    prompts = [studio.prompts_of(o, 1)[0] for o in (name, *near)]
    prompts.insert(1, studio.paraphrases_of(name, 2)[1])
    rows = []
    for prompt in prompts:
        rows.append((prompt, studio.plain([prompt] * 8, list(range(8)))))
        for method in methods:
            sample = studio.erased(studio.fit(name, method))
            rows.append((f"{prompt}   [{name} erased: {method}]", sample([prompt] * 8, list(range(8)))))
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(folder / f"{name}.png", rows)
    return folder / f"{name}.png"


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["erase", "overhead"])
    known = [m.name for m in known_methods("pipeline")]
    parser.add_argument("--methods", nargs="*", default=["none", *VARIANTS, *known])
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", help="default: those of the world's tables")
    for option, value in (("templates", 5), ("seeds", 20), ("steps", None)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--others", type=int, help="how many templates of each other concept (default: all)")
    parser.add_argument("--out", type=Path, default=Path("erasing"))
    args = parser.parse_args()
    methods = [m for m in args.methods if m.partition("@")[0] in known]
    studio = Studio.of(args, steps=args.steps)
    concepts = studio.concepts(args.concepts)
    if "erase" in args.sections:
        for method in args.methods:
            found = {c: run(studio, c, method, args.templates, args.seeds, args.others) for c in concepts}
            report(studio.world, method, found)
    if "rest" in args.sections:
        rest_table(studio, args.methods, concepts, args.templates, args.seeds)
    if "overhead" in args.sections:
        overhead(studio, methods)
    if "grids" in args.sections:
        for name in concepts:
            print(grid(studio, name, methods, args.out))


if __name__ == "__main__":
    main()
