"""CGCE on a world: what each of its choices does to detection, erasure, other prompts and cost.

python -m benchmarks.cgce [pairs classifier refinement identity cost] [--quick] [--world shapes]
    [--concepts star circle ...] [--prompts 12 --steps 12 --seed 0]

The source leaves open what pairs, classifier, threshold, step and stopping rule are; each is an option with a default
of ours, and each row changes one of them in `preset="published"`; "recommended" is the other preset. Classifiers never
see a held-out template, nor an "unread" synonym, which only the text encoder was trained on. AUROC and ACC are averages
over concepts; ACC is what judge 2 sees (ACC_e: named; ACC_g: by the unread synonym in held-out templates; ACC_ir: the
other concepts at their own prompts). Rest kept: images of the concept's prompts that still show the other factors that
these name.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks._measure import interleaved, table
from benchmarks._studio import Studio, add_world, rest_kept, reworded, seen
from efface import Concept, StillUnsafeWarning, erase
from efface.core.run import Run
from efface.core.subjects import as_subject
from efface.diffusion.text.cgce.classifier import TRAINED
from efface.diffusion.text.cgce.config import AT_APPLY
from efface.diffusion.text.cgce.erasure import Cgce
from efface.diffusion.text.cgce.pairs import PromptPair, pairs_of_concept
from efface.stats.roc import auroc

CONCEPTS = {
    "shapes": ("star", "circle", "heart", "triangle", "striped", "dotted"),
    "emoji": ("cat", "banana", "guitar", "castle", "twemoji", "black and white"),
}
QUICK = {"shapes": ("star", "dotted"), "emoji": ("cat", "twemoji")}
_SEED = 700

PAIRS: Mapping[str, Mapping[str, Any]] = {
    "default: 3 templates, in contexts": {},
    "without contexts": {"contexts": False},
    "at most 100 pairs": {"n_pairs": 100},
    "captions of the training split": {"given": "captions"},
    "both": {"given": "both"},
}
CLASSIFIER: Mapping[str, Mapping[str, Any]] = {
    "default: width 64, 4 heads, 4 members, rows .1": {},
    "1 member": {"members": 1},
    "8 members": {"members": 8},
    "width 32": {"width": 32},
    "width 256": {"width": 256},
    "1 head": {"heads": 1},
    "all rows seen": {"keep_rows": 1.0},
    "rows .5": {"keep_rows": 0.5},
    "rows .05": {"keep_rows": 0.05},
    "learning rate .0003": {"learning_rate": 3e-4},
    "learning rate .003": {"learning_rate": 3e-3},
    "another seed": {"seed": 1},
}
REFINEMENT: Mapping[str, Mapping[str, Any]] = {
    "recommended: straight to the anchor": {"preset": "recommended"},
    "default: typical, l2, eta 1, threshold .5": {},
    "until the threshold": {"until": "threshold"},
    "until .1": {"until": 0.1},
    "token_l2": {"normalise": "token_l2"},
    "sign": {"normalise": "sign"},
    "none (raw gradient)": {"normalise": "none"},
    "eta .1": {"eta": 0.1},
    "eta .5": {"eta": 0.5},
    "eta 1.5": {"eta": 1.5},
    "eta 3": {"eta": 3.0},
    "at most 3 steps": {"max_iter": 3},
    "threshold .1": {"threshold": 0.1, "until": "typical"},
    "threshold .9": {"threshold": 0.9, "until": "typical"},
}
HEADER = (
    "option",
    "AUROC held-out",
    "AUROC unread",
    "miss",
    "alarm",
    "ACC_e",
    "ACC_g",
    "ACC_ir",
    "rest kept",
    "others changed",
    "steps",
    "moved",
    "unsafe",
)


def unread(studio: Studio, name: str, n: int, seed: int) -> list[str]:
    """Held-out templates with a synonym that nothing but the text encoder was trained on."""
    found = studio.world.concept(name)
    return [reworded(text, found, found.unread[0]) for text in studio.held_out(name, n, seed)]


def concept_of(studio: Studio, name: str) -> Concept:
    """What a user would write: the word, and the other words of its kind."""
    return Concept(name, preserve=studio.others_of(name))


def captions_as_pairs(studio: Studio, name: str) -> list[PromptPair]:
    """Training captions that name the concept, and the same with another word of its kind."""
    found, others = studio.world.concept(name), studio.others_of(name)
    texts = enumerate(studio.captions_of(name, 200, _SEED))
    return [PromptPair(reworded(text, found, others[i % len(others)]), text) for i, text in texts]


def fit(studio: Studio, name: str, given: str = "", **options: Any) -> Cgce:
    """An erasure; `given` says whether captions take the place of the concept's pairs, or are added to them."""
    options, asked = {"preset": "published", **options}, concept_of(studio, name)
    if not given:
        return erase(studio.view, asked, "cgce", **options)
    mine = [*(pairs_of_concept(asked) if given == "both" else ()), *captions_as_pairs(studio, name)]
    return erase(studio.view, asked, "cgce", pairs=mine, **options)


class Trial:
    """Prompts about one concept, embedded once, and their plain pictures."""

    def __init__(self, studio: Studio, name: str, n: int) -> None:
        self.studio, self.name, self.judge = studio, name, studio.judge(2)
        told = {"templates": "held_out", "synonyms": True}
        held = studio.world.prompts_for(name, 60, seed=_SEED, **told).texts
        rest = [
            t
            for i, other in enumerate(studio.others_of(name))
            for t in studio.world.prompts_for(other, 12, seed=_SEED + i, **told).texts
        ]
        encode = studio.view.encode
        self.held, self.unread, self.rest = encode(held), encode(unread(studio, name, 60, _SEED + 1)), encode(rest)
        self.asked, self.words = studio.prompts_of(name, n), unread(studio, name, n, _SEED + 2)
        self.others = {o: studio.prompts_of(o, max(2, n // 4)) for o in studio.others_of(name)}

    def seen(self, sample: Any, prompts: Sequence[str], name: str) -> float:
        """Share of pictures in which the judge sees a concept, of those of which it can say."""
        found = seen(self.judge(sample(prompts, list(range(len(prompts)))), name))
        return math.nan if found is None else found.value

    def plain(self) -> list[float]:
        """ACC_e, ACC_g, ACC_ir and the rest kept of the pipeline as it is."""
        kept = [self.seen(self.studio.plain, texts, o) for o, texts in self.others.items()]
        both = [self.seen(self.studio.plain, texts, self.name) for texts in (self.asked, self.words)]
        return [*both, sum(kept) / len(kept), self.kept_rest(self.studio.plain)]

    def kept_rest(self, sample: Any) -> float:
        """Share of the other factors of the concept's prompts that are still drawn."""
        return rest_kept(self.studio, sample, self.name, len(self.asked), range(1))

    def figures(self, erasure: Cgce) -> list[float]:
        """The columns of `HEADER`."""
        with torch.no_grad():
            here, words, gone = (erasure.reading(e)[:, 0] for e in (self.held, self.unread, self.rest))
        sample = self.studio.erased(erasure)
        kept = [self.seen(sample, texts, o) for o, texts in self.others.items()]
        flat = [text for texts in self.others.values() for text in texts]
        changed = float((erasure.reading(self.studio.view.encode(flat)) > 0).float().mean())
        run = Run(as_subject(self.studio.view))
        erasure.edited(self.studio.view.encode(self.asked), run)
        fired = [note for note in run.log.last if note["erased"]] or [
            {"steps": math.nan, "moved": math.nan, "safe": True}
        ]
        return [
            auroc(here, gone),
            auroc(words, gone),
            float((torch.cat([here, words]) <= 0).float().mean()),
            float((gone > 0).float().mean()),
            self.seen(sample, self.asked, self.name),
            self.seen(sample, self.words, self.name),
            sum(kept) / len(kept),
            self.kept_rest(sample),
            changed,
            sum(note["steps"] for note in fired) / len(fired),
            sum(note["moved"] for note in fired) / len(fired),
            sum(not note["safe"] for note in fired) / len(fired),
        ]


def ablate(title: str, options: Mapping[str, Mapping[str, Any]], trials: Sequence[Trial], seed: int) -> None:
    """A row an option; those of the refinement alone share their classifiers."""
    fitted = {t.name: fit(t.studio, t.name, seed=seed) for t in trials}
    rows = []
    for label, change in options.items():
        found = []
        for t in trials:
            own = not set(change) - set(AT_APPLY)
            erasure = fitted[t.name].tuned(**change) if own else fit(t.studio, t.name, **{"seed": seed, **change})
            found.append(t.figures(erasure))
        mean = torch.tensor(found).nanmean(0).tolist()  # where nothing fired, there are no steps
        each = " ".join(f"{100 * f[4]:.0f}" for f in found)
        shown = [f"{v:.3f}" for v in mean[:4]] + [f"{100 * mean[4]:.1f} ({each})"]
        shown += [f"{100 * v:.1f}" for v in mean[5:9]] + [f"{mean[9]:.1f}", f"{mean[10]:.2f}", f"{mean[11]:.2f}"]
        rows.append((label, *shown))
    plain = [sum(column) / len(column) for column in zip(*(t.plain() for t in trials), strict=True)]
    rows.append(("no erasure", *["-"] * 4, *(f"{100 * v:.1f}" for v in plain), *["-"] * 4))
    names = ", ".join(t.name for t in trials)
    table(f"{title} ({names}; ACC in per cent, ACC_e also by concept)", HEADER, rows)


def identity(studio: Studio, trials: Sequence[Trial], seed: int) -> None:
    """Whether embeddings and pictures of prompts without the concept are the same bit for bit."""
    rows, view = [], studio.view
    for t in trials:
        erasure, flat = fit(studio, t.name, seed=seed), [text for texts in t.others.values() for text in texts]
        before = view.encode(flat)
        with erasure.on(view):
            after = view.encode(flat)
            pictures = view.sample(flat[:8], list(range(8)), **t.studio.options)
        same = sum(torch.equal(a, b) for a, b in zip(before.sequence, after.sequence, strict=True))
        plain = view.sample(flat[:8], list(range(8)), **t.studio.options)
        rows.append((t.name, f"{same} of {len(flat)}", f"{sum(map(torch.equal, pictures, plain))} of 8"))
    table("Other prompts, bit for bit", ("erased", "same embeddings", "same pictures"), rows)


def cost(studio: Studio, seed: int) -> None:
    """Time of a fit, of a detection and of a refinement."""
    view, name = studio.view, studio.world.shown[0]
    other = studio.others_of(name)[0]
    start = time.perf_counter()
    erasure = fit(studio, name, seed=seed)
    fitting = time.perf_counter() - start
    here, gone = view.encode(studio.prompts_of(name, 16)), view.encode(studio.prompts_of(other, 16))
    run = Run(as_subject(view))
    sides = {"16 without": gone, "16 with": here, "1 with": here[0], "1 without": gone[0]}
    contestants: dict[str, Any] = {name: partial(erasure.edited, e, run) for name, e in sides.items()}
    contestants["16 encoded"] = lambda: view.encode(list(here.prompts))
    contestants["a picture"] = lambda: view.sample([here.prompts[0]], [0], **studio.options)
    best = interleaved(contestants, 5)
    rows = [(f"fit, {name}", f"{fitting:.2f} s"), *((name, f"{1000 * t:.1f} ms") for name, t in best.items())]
    size = sum(erasure.readers[0][0].classifier.weights[name].numel() for name in TRAINED)
    (fitted,) = erasure.report[name].values()
    table(f"Cost ({size} weights, {sum(fitted.pairs)} pairs)", ("what", "time"), rows)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ("pairs", "classifier", "refinement", "identity", "cost")
    parser.add_argument("sections", nargs="*", default=known)
    parser.add_argument("--quick", action="store_true")
    add_world(parser)
    parser.add_argument("--concepts", nargs="*")
    for option, value in (("prompts", 12), ("steps", 12), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value)
    args = parser.parse_args()
    if args.quick:
        args.prompts = min(args.prompts, 8)
    warnings.simplefilter("ignore", StillUnsafeWarning)  # it is the last column
    studio = Studio.of(args, steps=args.steps)
    chosen = studio.concepts(args.concepts or (QUICK if args.quick else CONCEPTS)[args.world])
    trials = [Trial(studio, name, args.prompts) for name in chosen]
    for name, options in (("pairs", PAIRS), ("classifier", CLASSIFIER), ("refinement", REFINEMENT)):
        if name in args.sections:
            chosen = dict(list(options.items())[:3]) if args.quick else options
            ablate(name.capitalize(), chosen, trials, args.seed)
    if "identity" in args.sections:
        identity(studio, trials, args.seed)
    if "cost" in args.sections:
        cost(studio, args.seed)


if __name__ == "__main__":
    main()
