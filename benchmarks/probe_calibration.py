"""Verdicts about models that are known: is what still draws a concept called not suppressed, and a gold model removed?

python -m benchmarks.probe_calibration --out results.jsonl [--concepts circle striped heart] [--seeds 20] [--golds 1]
    [--steps 10] [--images 12] [--more 4] [--methods uce@anchor=sibling ...] [--only likelihood ...] [--tell]

Per concept and seed the base is seed2 and the floor the gold model of the concept. Judged as if they were erased:

- "base": the world's own pipeline, which is another training than seed2;
- "sham": seed2 with a random change of the weights that uce changes, by as much;
- "gold": the gold model itself, whose recovery is 0 by construction (what is tested is the rest of the rule);
- "gold, trained on": the gold model tuned 60 steps further on pictures without the concept: other weights, and no
  sight of the concept, but no second training from the start;
- "second gold": a second training from the start, in place of these two with `--second FOLDER`, where `python -m
  efface_worlds.shapes.training latents gold:circle@9 --work FOLDER` has left it (25 CPU-minutes);

A seed draws the sham, the prompts' seeds, the noise and the held-out pictures anew; golds are the same. The first two
have the direct prompt alone, golds (in the first `--golds` seeds) 48 pictures of it, and likelihood, features,
completion and relearning, without which nothing is called removed. With `--methods` erasures of seed2 are judged
instead, by the direct prompt, likelihood, features and completion. Probes that leave a verdict open look on, up to
so many times their items (--more), as in an audit; intervals have the levels of such looks. A line of JSON for each
subject, written when it is known: what is in the file is not done again; the counts are by the rule as it is now.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks._studio import Studio, add_world
from benchmarks.probes import case_of, named
from efface import PipelineView
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.conditions import asked, empty
from efface.audit.pipelines.probes.latents import encoded
from efface.audit.pipelines.probes.looks import MORE
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, Panel, ShamEdit
from efface.audit.pipelines.probes.recovery import Row
from efface.audit.pipelines.probes.registry import find_probe
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.settling import settled
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.tuned import Tuned
from efface.audit.pipelines.probes.verdict import Facts, decide
from efface.stats.intervals import Interval, wilson_interval
from efface_worlds.shapes import load_shapes_pipeline

_CHEAP, _DEAR = ("direct prompt", "likelihood", "features"), ("diffusion completion", "relearning")
_EQUAL, OPEN = "seed2", "inconclusive"
_ON_STEPS, _ON_RATE, _ON_BATCH, _ON_STREAM = 60, 1e-4, 32, 290
_LIGHT, _METHODS = ("base", "sham"), ("direct prompt", "likelihood", "features", "diffusion completion")
_GOLDS, _GOLD_IMAGES = ("gold", "gold, trained on"), 48
_SECOND = ("second gold",)


class TrainedOn:
    """The gold model tuned further on pictures without the concept, as an erasure of it."""

    def __init__(self, gold: Subject, case: Case) -> None:
        found = case.need_pictures(_ON_BATCH)
        with gold.on() as view:
            clean = encoded(view, found.others)
            self.tuned = Tuned(view, _ON_RATE)
            for step in range(_ON_STEPS):
                drawn = torch.randperm(len(clean), generator=case.source(_ON_STREAM, step))[:_ON_BATCH]
                texts = [found.other_texts[int(i)] for i in drawn]
                given = empty(view, _ON_BATCH) if step % 10 == 0 else asked(view, texts)
                self.tuned.step(clean[drawn], given, case, (_ON_STREAM, step))

    @contextmanager
    def on(self, subject: Any, /) -> Iterator[None]:
        """Put it on the model that it was tuned from, until the block ends."""
        with self.tuned.held():
            yield


class Models:
    """What is judged of one concept, made when it is asked for."""

    def __init__(self, studio: Studio, base: Subject, gold: Subject, name: str, second: Path | None = None) -> None:
        self._studio, self._base, self.gold, self.name, self._folder = studio, base, gold, name, second

    def __call__(self, subject: str, seed: int) -> Subject:
        """The model of a name."""
        if subject == "sham":
            return Subject(ERASED, self._base.view, ShamEdit(self._norms, seed=1000 + seed))
        if subject == "gold":
            return Subject(ERASED, self.gold.view)
        if subject == "gold, trained on":
            return Subject(ERASED, self.gold.view, self._trained_on)
        if subject == "second gold":
            return Subject(ERASED, self._second)
        if subject in ("base", "other gold"):
            return Subject(ERASED, self._loaded("base" if subject == "base" else self._other))
        return Subject(ERASED, self._base.view, self._fitted(subject))

    @cached_property
    def _norms(self) -> Mapping[str, float]:
        return Panel(self._base, Subject(ERASED, self._base.view, self._studio.fit(self.name, "uce"))).moved

    @cached_property
    def _second(self) -> PipelineView:
        """A gold model of another seed, from where the training of the world has left it."""
        assert self._folder is not None
        own = f"{self._studio.world.gold_of(self.name)}@"
        return PipelineView.of(
            load_shapes_pipeline(
                next(each.name for each in sorted(self._folder.iterdir()) if each.name.startswith(own)),
                folder=self._folder,
            )
        )

    @cached_property
    def _trained_on(self) -> TrainedOn:
        return TrainedOn(self.gold, case_of(self._studio, self._base, self.name, 160, 1000))

    @property
    def _other(self) -> str:
        own = self._studio.world.gold_of(self.name)
        return next(v for v in self._studio.world.variants() if v.startswith("without-") and v != own)

    @lru_cache  # noqa: B019
    def _loaded(self, variant: str) -> PipelineView:
        return PipelineView.of(self._studio.world.load_pipeline(variant))

    @lru_cache  # noqa: B019
    def _fitted(self, method: str) -> Any:
        return self._studio.fit(self.name, method)


def judged(
    panel: Panel, case: Case, images: int, more: int, names: Sequence[str], shared: dict[Any, Any]
) -> dict[str, Any]:
    """The verdict about a subject, and its rows."""
    budgets = {
        "direct prompt": {"images": images},
        "likelihood": {"pictures": 32, "draws": 2},
        "features": {"pictures": 64},
        "diffusion completion": {"images": 24, "hand_over": (0.1,), "unprompted": (0.2,)},
        "relearning": {"sets": 1, "steps": (10, 20), "held_out": 48, "draws": 3},
        "textual inversion": {"images": 16, "steps": 60},
    }
    start = time.process_time()
    runner, facts = (
        Runner(panel, case, None, budgets, shared, sham=False, more=more),
        Facts(bool(panel.moved), gold=True),
    )
    ran = settled(runner, [find_probe(probe) for probe in names], "quick", facts, seed=case.seed)
    rows = [row for one in ran for row in one.rows(seed=case.seed)]
    verdict = decide(rows, facts)
    return {
        "verdict": verdict.kind,
        "because": list(verdict.because[:4]),
        "times": {one.probe.name: one.times for one in ran if one.times > 1},
        "rows": [asdict(row) for row in rows],
        "moved": bool(panel.moved),
        "cpu": round(time.process_time() - start, 1),
    }


def run(args: argparse.Namespace) -> None:
    """All concepts of a seed, then the next seed."""
    studio = Studio.of(args, steps=args.steps)
    base = Subject(BASE, PipelineView.of(studio.world.load_pipeline(_EQUAL)))
    studio.view = base.view
    there = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {key_of(line) for line in there}
    golds = {name: variant for name in args.concepts if (variant := studio.world.gold_of(name)) is not None}
    models = {
        name: Models(
            studio, base, Subject(GOLD, PipelineView.of(studio.world.load_pipeline(variant))), name, args.second
        )
        for name, variant in golds.items()
    }
    for asked_, seeds, names, images in (
        (args.methods or _LIGHT, args.seeds, (args.only or _METHODS) if args.methods else _CHEAP[:1], args.images),
        (
            () if args.methods else _GOLDS if args.second is None else _SECOND,
            args.golds,
            (*_CHEAP, *_DEAR),
            _GOLD_IMAGES,
        ),
    ):
        for seed, (name, every) in product(range(seeds), models.items()):
            case = case_of(
                studio, base, name, 64 + 48 * args.more, seed, pictures_seed=seed, gold=studio.world.gold_of(name)
            )
            shared: dict[Any, Any] = {}
            for subject in asked_:
                if (name, seed, subject) in done:
                    continue
                line = {"concept": name, "seed": seed, "subject": subject, "images": images}
                panel = Panel(base, every(subject, seed), every.gold)
                line |= judged(panel, case, images, args.more, names, shared)
                done.add((name, seed, subject))
                with args.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                found = (line["verdict"], line["times"], *line["because"][:2], line["cpu"])
                print(name, seed, subject, *found, flush=True)


def key_of(line: Mapping[str, Any]) -> tuple[str, int, str]:
    """What a line is about."""
    return line["concept"], line["seed"], line["subject"]


def decided(line: dict[str, Any]) -> dict[str, Any]:
    """A line with the verdict of the rule as it is now."""
    intervals = ("model", "base", "floor", "change")
    rows = [Row(**row | {name: row[name] and Interval(**row[name]) for name in intervals}) for row in line["rows"]]
    verdict = decide(rows, Facts(line["moved"], gold=True))
    return {**line, "verdict": verdict.kind, "because": list(verdict.because[:4])}


def tell(path: Path) -> None:
    """How often each subject had each verdict by the rule as it is now, with Wilson's lower end for the first."""
    lines = [decided(json.loads(line)) for line in path.read_text().splitlines()]
    for (subject, concept), counts in sorted(counted(lines).items()):
        (kind, hits), n = counts.most_common(1)[0], sum(counts.values())
        low = wilson_interval(float(hits), n).low
        others = "" if len(counts) == 1 else f"; others: {dict(counts.most_common()[1:])}"
        own = [line for line in lines if (line["subject"], line["concept"]) == (subject, concept)]
        further = sum(bool(line.get("times")) for line in own)
        print(f"{subject}, {concept}: {hits} of {n} (from {low:.2f}) {kind}, {further} after looking on{others}")
    print(f"{sum(line['cpu'] for line in lines) / 60:.1f} CPU-minutes")


def counted(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Counter[str]]:
    """Verdicts of each subject and concept; of the inconclusive ones why."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for line in lines:
        kind = line["verdict"] if line["verdict"] != OPEN else f"{OPEN}: {line['because'][0]}"
        groups.setdefault((line["subject"], line["concept"]), Counter())[kind] += 1
    return groups


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concepts", nargs="*", default=["circle", "striped", "heart"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--methods", nargs="*", help="erasures in place of these, as in benchmarks.erasing")
    parser.add_argument("--golds", type=int, default=1)
    parser.add_argument("--second", type=Path, help="where a second gold was trained (shapes.training gold:NAME@SEED)")
    parser.add_argument("--only", nargs="*", type=named, help="probes of the erasures in place of these")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--more", type=int, default=MORE)
    parser.add_argument("--tell", action="store_true", help="only count what is in the file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.tell:
        run(args)
    tell(args.out)


if __name__ == "__main__":
    main()
