"""The suite of probes on a panel of erasures of one concept, next to a base, a sham and a gold model.

python -m benchmarks.probes [--world shapes] [--concepts circle] [--base seed2] [--suite quick]
    [--methods base sham uce esd gradient-ascent ...] [--only likelihood relearning ...] [--seeds 0] [--scale 1]
    [--pictures 240]

Each concept needs a gold model, `without-CONCEPT`, of which seed2 is the equal that saw everything; so erasures are of
seed2, unless --base says otherwise. "base" is erased by nothing, "sham" is a random change of the weights that uce
changes, by as much. Methods are named as in `benchmarks.erasing` ("esd@steps=100"). --scale divides the numbers of
pictures and of prompts of the budgets, to see whether it runs. Judge 1 selects, judge 2 scores; held-out pictures are
renderings. Cells: recovery with its interval, or "void"; below, the raw numbers, verdicts and the CPU seconds of a
model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world
from efface import Concept, PipelineView
from efface.audit import Pictures
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, Panel, ShamEdit
from efface.audit.pipelines.probes.recovery import Row
from efface.audit.pipelines.probes.registry import Probe, probes
from efface.audit.pipelines.probes.running import Ran, Runner
from efface.audit.pipelines.probes.shown import recovered, said
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.verdict import Facts, Verdict, decide

_SCALED = ("images", "pictures", "prompts", "held_out")
_PICTURES = 7
_LEAST = {"images": 40, "pictures": 40, "prompts": 4, "held_out": 32}


class Nothing:
    """An erasure that does nothing."""

    @contextmanager
    def on(self, subject: Any, /) -> Iterator[None]:
        """Nothing is changed."""
        yield


def case_of(studio: Studio, base: Subject, name: str, pictures: int, seed: int, pictures_seed: int = _PICTURES) -> Case:
    """What the probes are asked of a concept."""
    found = studio.world.pictures_of(name, pictures, seed=pictures_seed)
    given = Pictures(found[0], tuple(found[1]), found[2], tuple(found[3]), "renderings")
    others = {o: tuple(studio.prompts_of(o, 8)) for o in studio.others_of(name)}
    return Case(
        Concept(name),
        base,
        studio.judge(2),
        studio.judge(1),
        tuple(studio.prompts_of(name, 8)),
        tuple(studio.paraphrases_of(name, 8)),
        others,
        given,
        sampling={k: v for k, v in studio.options.items() if k != "batch_size"},
        batch_size=32,
        seed=seed,
    )


def erased_by(studio: Studio, base: Subject, name: str, method: str, gold: Subject) -> Subject:
    """A member of the panel."""
    if method == "gold":
        return Subject(ERASED, gold.view)
    if method == "base":
        return Subject(ERASED, base.view, Nothing())
    if method == "sham":
        norms = Panel(base, Subject(ERASED, base.view, studio.fit(name, "uce"))).moved
        return Subject(ERASED, base.view, ShamEdit(norms, seed=1))
    return Subject(ERASED, base.view, studio.fit(name, method))


def budgets_of(chosen: Sequence[Probe], suite: Any, scale: float) -> dict[str, dict[str, Any]]:
    """Budgets of a suite with smaller numbers."""
    found: dict[str, dict[str, Any]] = {}
    for probe in chosen:
        budget = dict(probe.budget(suite) or {})
        less = {k: max(_LEAST[k], int(v / scale)) for k, v in budget.items() if k in _SCALED and isinstance(v, int)}
        found[probe.name] = {k: min(v, budget[k]) for k, v in less.items()}
    return found


def run(args: argparse.Namespace, studio: Studio, name: str, seed: int) -> None:
    """The tables of one concept."""
    base = Subject(BASE, studio.view)
    variant = studio.world.gold_of(name)
    if variant is None:
        raise SystemExit(f"no gold model of {name}: there are {', '.join(studio.world.variants())}")
    gold = Subject(GOLD, PipelineView.of(studio.world.load_pipeline(variant)))
    case = case_of(studio, base, name, args.pictures, seed)
    every = probes(args.suite)
    chosen = [p for p in every if not args.only or p.name in args.only]
    budgets = budgets_of(chosen, args.suite, args.scale)
    shared: dict[Any, Any] = {}
    rows: dict[str, list[Row]] = {}
    verdicts: dict[str, Verdict] = {}
    seconds: dict[str, float] = {}
    for method in args.methods:
        erased = erased_by(studio, base, name, method, gold)
        panel = Panel(base, erased, gold)
        start = time.process_time()
        ran = list(_ran(Runner(panel, case, None, budgets, shared), chosen, args.suite, method))
        rows[method] = [row for one in ran for row in one.rows(seed=seed)]
        seconds[method] = time.process_time() - start
        verdicts[method] = decide(rows[method], Facts(bool(panel.moved), gold=True))
        for one in ran:
            for model, why in one.why.items():
                print(f"{method}, {one.probe.name}, {model}: {why}", flush=True)
        print(f"\n{name}, {method}: {verdicts[method].kind}; reversible: {verdicts[method].reversible}", flush=True)
        for text in verdicts[method].because:
            print(f"  - {text}")
        for row in rows[method]:
            print(f"  {row.title}: {said(row.model, row)}; {recovered(row)}", flush=True)
    report(name, seed, rows, verdicts, seconds)


def _ran(runner: Runner, chosen: Sequence[Probe], suite: Any, method: str) -> Iterator[Ran]:
    for probe in chosen:
        start = time.process_time()
        yield runner.one(probe, suite)
        print(f"  ({method}, {probe.name}: {time.process_time() - start:.0f} CPU-s)", flush=True)


def report(
    name: str,
    seed: int,
    rows: dict[str, list[Row]],
    verdicts: dict[str, Verdict],
    seconds: dict[str, float],
) -> None:
    """Recovery by row and method, raw numbers, verdicts."""
    first = next(iter(rows.values()))
    by = {method: {row.title: row for row in found} for method, found in rows.items()}
    recovery = [
        (row.title, *(recovered(found[row.title]) if row.title in found else "-" for found in by.values()))
        for row in first
    ]
    last = ("verdict", *(v.kind for v in verdicts.values()))
    more = [("reversible", *(v.reversible for v in verdicts.values()))]
    more.append(("CPU-s", *(f"{s:.0f}" for s in seconds.values())))
    table(f"{name}, seed {seed}: recovery", ("row", *rows), [*recovery, last, *more])
    raw = [
        (
            row.title,
            said(row.base, row),
            said(row.floor, row),
            *(said(found[row.title].model, row) if row.title in found else "-" for found in by.values()),
        )
        for row in first
    ]
    table(f"{name}, seed {seed}: raw", ("row", "base", "gold", *rows), raw)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", default=["circle"])
    parser.add_argument("--base", default="seed2")
    parser.add_argument("--suite", default="quick", choices=("quick", "full"))
    methods = ["base", "sham", "semantic-surgery", "uce", "esd@steps=100", "gradient-ascent"]
    parser.add_argument("--methods", nargs="*", default=methods)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    studio = Studio.of(args)
    if args.pipeline is None:
        studio.view = PipelineView.of(studio.world.load_pipeline(args.base))
    for name in studio.concepts(args.concepts):
        for seed in args.seeds:
            run(args, studio, name, seed)


if __name__ == "__main__":
    main()
