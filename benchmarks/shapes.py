"""Quality of the shapes world: what its pipeline draws, what its judges see, what its text encoder means.

python -m benchmarks.shapes [quality pairs judges text gold cost sizes] [--n 600] [--grid grid.png] [--threads 1]

Without names all sections run. Images take 30 DDIM steps at guidance 3; agreement is judge 1's, intervals Wilson's.
`--pipeline` and `--gold` read other folders than those that are shipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import table
from efface.stats.intervals import wilson_interval
from efface_worlds import shapes
from efface_worlds.shapes.acceptance import presence_auroc, subtraction
from efface_worlds.shapes.captions import Reader, caption
from efface_worlds.shapes.concepts import FACTORS, concept
from efface_worlds.shapes.corruption import TRAINED, UNSEEN
from efface_worlds.shapes.generation import GUIDANCE, STEPS, generate
from efface_worlds.shapes.shipped import GOLD, WEIGHTS
from efface_worlds.shapes.training.measuring import answers, attributed, confusion, held_out

MEGABYTE = 1e6


def share(hits: Tensor) -> str:
    """A share with Wilson's interval."""
    i = wilson_interval(float(hits.sum()), len(hits))
    return f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"


def quality(pipeline: Any, judges: Sequence[Any], n: int, name: str = "base") -> None:
    """Agreement of generated images with their prompts, factor by factor and concept by concept."""
    rows = []
    kept = []
    readers: tuple[Reader, ...] = ("plain", "train", "held_out", "joined")
    for templates in readers:
        prompts = shapes.prompts_for(n=n, seed=5, templates=templates, synonyms=templates != "plain")
        images = generate(pipeline, prompts.texts, seed=1000)
        verdicts = [judge.judge(images) for judge in judges]
        agrees = [verdict.agrees(prompts.scenes) for verdict in verdicts]
        for i, found in enumerate(agrees, 1):
            if templates != "train":  # these may leave factors out
                unsaid = share(~verdicts[i - 1].known)
                rows.append((templates, f"judge {i}", *(share(found[f]) for f in FACTORS), unsaid))
        kept.append((prompts, agrees[0]))
        if templates == "train":
            named = torch.tensor(
                [_names_object(t, int(s)) for t, s in zip(prompts.texts, _objects(prompts), strict=True)]
            )
            rows.append(
                (
                    f"train, {int(named.sum())} that name an object",
                    "judge 1",
                    share(agrees[0]["object"][named]),
                    *[""] * 4,
                )
            )
    table(
        f"{name}: agreement with prompts, {n} images, {STEPS} steps, guidance {GUIDANCE}",
        ("templates", "by", *FACTORS, "cannot say"),
        rows,
    )
    prompts, found = kept[0]
    held = prompts.scenes.held_out
    rows = [
        ("seen", *(share(found[f][~held]) for f in FACTORS)),
        ("held out", *(share(found[f][held]) for f in FACTORS)),
    ]
    table(f"{name}: combinations of object, colour and style", ("combination", *FACTORS), rows)
    rows = []
    for factor, values in FACTORS.items():
        labels = shapes.labels_of(prompts.scenes, factor)
        for label, value in enumerate(values):
            which = labels == label
            rows.append((factor, value.name, value.weight, int(which.sum()), share(found[factor][which])))
    table(f"{name}: by concept, plain prompts", ("factor", "concept", "weight in training", "n", "agreement"), rows)


def two_objects(pipeline: Any, judges: Sequence[Any], n: int) -> None:
    """Prompts for two objects: whether exactly these two are there. Renderings and reconstructions bound it."""
    world = shapes.make_shapes(n, seed=12, split="test", two_objects=1.0, balanced=True)
    prompts = caption(world.scenes, reader="plain", seed=0)
    with torch.no_grad():
        latents = pipeline.vae.encode(world.images * 2 - 1).latent_dist.mean
        decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    kinds = {"renderings": world.images, "reconstructions": decoded, "generated": generate(pipeline, prompts, seed=30)}
    rows = []
    for kind, images in kinds.items():
        for i, judge in enumerate(judges, 1):
            verdict = judge.judge(images)
            agrees = verdict.agrees(world.scenes)
            cells = (agrees["object"], agrees["colour"], verdict.known & (verdict.count == 2), ~verdict.known)
            rows.append((kind, i, *(share(cell) for cell in cells)))
    table(
        f"Two objects, {n} images",
        ("images", "judge", "exactly these two", "each in its colour", "two", "cannot say"),
        rows,
    )


def _objects(prompts: Any) -> list[int]:
    return prompts.scenes.objects[:, 0].tolist()


def _names_object(text: str, label: int) -> bool:
    value = FACTORS["object"][label]
    return any(word in text.split() for word in (value.name, *value.synonyms))


def judges_table(judges: Sequence[Any]) -> None:
    """What the judges see of one and of two objects, what they make of it, and where they say that they cannot say."""
    sets = dict(zip(("one object", "two objects"), held_out(4000, seed=77), strict=True))
    rows, least, wrong, outside = [], [], [], []
    for i, judge in enumerate(judges, 1):
        for kind, world in sets.items():
            verdict = judge.judge(world.images)
            agrees = verdict.agrees(world.scenes)
            counted = verdict.count == (1 if kind == "one object" else 2)
            error = f"{calibration(verdict, world):.4f}" if kind == "one object" else ""
            rows.append((i, kind, *(share(agrees[f]) for f in FACTORS), share(counted), share(~verdict.known), error))
            least += [(i, kind, *row) for row in extremes(verdict, world.scenes)]
        wrong += [(i, *row) for row in confusions(judge.judge(sets["one object"].images), sets["one object"].scenes)]
        for name in (*TRAINED, *UNSEEN):
            found = ~judge.judge(shapes.corrupted(500, name, seed=3)).known
            outside.append((i, name, "trained" if name in TRAINED else "unseen", share(found)))
        empty = judge.judge(shapes.corrupted(500, "empty", seed=3))
        outside.append((i, "empty", "inside: nothing is there", share(empty.known & (empty.count == 0))))
    header = ("judge", "renderings", *FACTORS, "count", "cannot say", "calibration error, object")
    table("Judges on 4,000 fresh renderings each: agreement", header, rows)
    header = ("judge", "renderings", "of", "least seen where it is", "most seen where it is not")
    table("The worst concept of each factor, by judge(images, name)", header, least)
    table("Confusions of one object, all of them", ("judge", "factor", "is", "judged", "images"), wrong)
    table("Outside of the domain, 500 each: cannot say", ("judge", "corruption", "in training", "share"), outside)


def extremes(verdict: Any, scenes: Any) -> list[tuple[str, str, str]]:
    """The worst concept of each factor, and of objects in a colour: least seen where it is, most where it is not."""
    kinds = {f: [(c.name, answers(verdict, scenes, c.name)) for c in values] for f, values in FACTORS.items()}
    kinds["object in its own, or the other's, colour"] = [
        (c.name, attributed(verdict, scenes, c.name)) for c in FACTORS["object"]
    ]
    rows = []
    for kind, found in kinds.items():
        name, (seen, _) = min(found, key=lambda one: float(one[1][0].float().mean()))
        false = [(other, hits) for other, (_, hits) in found if len(hits)]
        most = max(false, key=lambda one: float(one[1].float().mean()), default=None)
        shown = "" if most is None else f"{most[0]} {share(most[1])}"
        rows.append((kind, f"{name} {share(seen)}", shown))
    return rows


def confusions(verdict: Any, scenes: Any) -> list[tuple[str, str, str, int]]:
    """Every confusion: factor, truth, verdict, how often."""
    rows = []
    for factor, cells in confusion(verdict, scenes).items():
        names = [*(c.name for c in FACTORS[factor]), "none"]
        rows += [
            (factor, names[i], names[j], times)
            for i, row in enumerate(cells)
            for j, times in enumerate(row)
            if i != j and times
        ]
    return rows


def calibration(verdict: Any, world: Any, bins: int = 10) -> float:
    """Expected calibration error of objects over equal bins (Guo et al., arXiv:1706.04599, equation 3)."""
    sure, label = verdict.object[:, 0].max(1)
    right = (label == world.scenes.objects[:, 0]).float()
    place = (sure * bins).long().clamp(max=bins - 1)
    gaps = [(sure[place == b].mean() - right[place == b].mean()).abs() * (place == b).sum() for b in place.unique()]
    return float(torch.stack(gaps).sum() / len(sure))


def text_table(pipeline: Any, judge: Any, per_concept: int) -> None:
    """The acceptance of the text encoder."""
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    rows = []
    for factor in FACTORS:
        found = presence_auroc(encoder, tokenizer, factor=factor)
        least = min(found, key=lambda name: found[name])
        rows.append((factor, f"{np.mean(list(found.values())):.3f}", f"{found[least]:.3f} ({least})"))
    table("Presence from the mean per-token cosine, 1,200 held-out captions: AUROC", ("factor", "mean", "least"), rows)
    named = [c.name for factor in ("object", "colour", "style") for c in FACTORS[factor] if c.family]
    near = {name: shapes.nearness(encoder, tokenizer, name) for name in named}
    rows = [(concept(k).factor, k, f"{s:.3f}", f"{t:.3f}", "yes" if s > t else "no") for k, (s, t) in near.items()]
    table("Cosine of directions", ("factor", "concept", "siblings", "strangers", "siblings nearer"), rows)
    rows = []
    for value in FACTORS["object"]:
        before, after = subtraction(pipeline, judge, value.name, per_concept, seed=4)
        cells = [f"{float(before[f].float().mean()):.2f} -> {float(after[f].float().mean()):.2f}" for f in FACTORS]
        rows.append((value.name, *cells))
    title = f"E - (E(object) - E('')) on its own prompts, {per_concept} each: agreement before -> after"
    table(title, ("object", *FACTORS), rows)


def _seen(answers: Tensor) -> str:
    """Share in which something is seen, of those of which the judge can say; and of how many it cannot."""
    unsaid = answers.isnan()
    return f"{share(answers[~unsaid] == 1) if not unsaid.all() else '-'}, cannot say {int(unsaid.sum())}"


def gold_table(judge: Any, gold: Path | None, n: int) -> None:
    """What each variant draws when asked for the concepts that gold models lack."""
    names = [v for v in shapes.shapes_variants(gold) if v != "base"]
    lacking = [v.removeprefix("without-") for v in names if v.startswith("without-")]
    rows = []
    for variant in names:
        pipeline = shapes.load_shapes_pipeline(variant, folder=gold)
        cells = []
        for name in lacking:
            prompts = shapes.prompts_for(name, n, seed=8)
            cells.append(_seen(judge(generate(pipeline, prompts.texts, seed=50), name)))
        prompts = shapes.prompts_for(n=2 * n, seed=9)
        found = judge.judge(generate(pipeline, prompts.texts, seed=90)).agrees(prompts.scenes)
        mine = (
            shapes.shows(prompts.scenes, variant.removeprefix("without-"))
            if "-" in variant
            else torch.zeros(2 * n).bool()
        )
        cells += [share(found[f][~mine]) for f in ("object", "colour", "style")]
        rows.append((variant, *cells))
    header = (
        "variant",
        *(f"asked for {name}: shown" for name in lacking),
        *(f"others: {f}" for f in ("object", "colour", "style")),
    )
    table(f"Gold models and second seed, {n} images a concept", header, rows)


def cost(pipeline: Any) -> None:
    """CPU-seconds of sampling and of judging."""
    rows = []
    for steps in (10, 20, 30):
        begun = time.process_time()
        generate(pipeline, ["a red circle"] * 32, steps=steps)
        spent = time.process_time() - begun
        rows.append((steps, f"{spent:.1f}", f"{32 / spent:.1f}"))
    table(
        f"Sampling 32 images with guidance, {torch.get_num_threads()} thread",
        ("steps", "CPU-s", "images per CPU-s"),
        rows,
    )


def sizes(pipeline: Path, gold: Path) -> None:
    """Bytes on disk."""
    rows = [
        (str(f.relative_to(pipeline)), f"{f.stat().st_size / MEGABYTE:.2f}")
        for f in sorted(pipeline.rglob("*.safetensors"))
    ]
    total = sum(f.stat().st_size for f in pipeline.rglob("*") if f.is_file())
    rows.append(("all that ships", f"{total / MEGABYTE:.2f}"))
    rows += [
        (f"gold: {f.parent.name}", f"{f.stat().st_size / MEGABYTE:.2f}") for f in sorted(gold.rglob("*.safetensors"))
    ]
    table("Files", ("file", "MB"), rows)


def grid(pipeline: Any, path: Path) -> None:
    """A picture: a column an object; rows go through styles and backgrounds, then other combinations."""
    from PIL import Image

    names = {factor: [c.name for c in values] for factor, values in FACTORS.items()}
    prompts = []
    for row in range(8):
        for column, name in enumerate(names["object"]):
            colour, style = names["colour"][(column + row) % 8], names["style"][row % 6]
            ground = names["background"][(row + column // 2) % 6]
            prompts.append(f"a {colour} {style} {name} on a {ground} background")
    images = generate(pipeline, prompts, seed=7)
    cells = images.reshape(8, 10, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(256, 320, 3)
    Image.fromarray((cells.clamp(0, 1) * 255).byte().numpy()).resize((960, 768), 0).save(path)
    print(f"\n{path}: {prompts[0]!r} to {prompts[-1]!r}")


def main() -> None:
    sections = ("quality", "pairs", "judges", "text", "gold", "cost", "sizes")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=sections, metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--n", type=int, default=600, help="images a table (default: %(default)s)")
    parser.add_argument("--per-concept", type=int, default=40, help="images a concept (default: %(default)s)")
    parser.add_argument("--grid", type=Path, help="write a picture of samples here")
    parser.add_argument("--pipeline", type=Path, help="folder of another pipeline")
    parser.add_argument("--gold", type=Path, help="folder of other gold models")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = shapes.load_shapes_pipeline(folder=args.pipeline)
    judges = [shapes.load_judge(1), shapes.load_judge(2)]
    jobs = {
        "quality": lambda: quality(pipeline, judges, args.n),
        "pairs": lambda: two_objects(pipeline, judges, args.n // 3),
        "judges": lambda: judges_table(judges),
        "text": lambda: text_table(pipeline, judges[0], args.per_concept),
        "gold": lambda: gold_table(judges[0], args.gold, args.per_concept),
        "cost": lambda: cost(pipeline),
        "sizes": lambda: sizes(WEIGHTS, args.gold or GOLD),
    }
    for name in args.sections:
        jobs[name]()
    if args.grid:
        grid(pipeline, args.grid)


if __name__ == "__main__":
    main()
