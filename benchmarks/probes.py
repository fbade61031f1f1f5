"""The suite of probes on a panel of erasures of one concept, next to a base, a sham and a gold model.

python -m benchmarks.probes [--world shapes] [--concepts circle] [--base seed2] [--suite quick]
    [--methods base sham uce esd gradient-ascent ...] [--only likelihood relearning ...] [--seeds 0] [--scale 1]
    [--pictures 240] [--more 4] [--folder FOLDER] [--processes 1]

Each concept needs a gold model, which `gold_of` finds by what it never saw. On shapes seed2 is its equal that saw
everything, so that erasures are of that, unless --base says otherwise; elsewhere of what ships. "base" is erased by
nothing, "sham" is a random change of the weights that uce changes, by as much. Methods are named as in
`benchmarks.erasing` ("esd@steps=100"). --scale divides the numbers of pictures and of prompts of the budgets, to see
whether it runs. Judge 1 selects, judge 2 scores; held-out pictures are renderings. Cells: recovery with interval, or
"void"; below, the raw numbers, verdicts and the CPU seconds that were spent on probing now. In --folder fits and scores
are kept, of which nothing is done again.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world
from efface import Concept, InputError, PipelineView, load
from efface._io import write_json
from efface.audit import Pictures
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.looks import MORE
from efface.audit.pipelines.probes.panel import BASE, ERASED, GOLD, Panel, ShamEdit
from efface.audit.pipelines.probes.recovery import Row
from efface.audit.pipelines.probes.registry import Probe, find_probe, probes
from efface.audit.pipelines.probes.running import Runner
from efface.audit.pipelines.probes.settling import settled
from efface.audit.pipelines.probes.shown import recovered, said
from efface.audit.pipelines.probes.subject import Subject
from efface.audit.pipelines.probes.verdict import Facts, Verdict, decide
from efface.core.checkpoint import Checkpoint

_SCALED = ("images", "pictures", "prompts", "held_out")
_PICTURES = 7
_EQUAL = "seed2"
_LEAST = {"images": 40, "pictures": 40, "prompts": 4, "held_out": 32}


class Nothing:
    """An erasure that does nothing."""

    @contextmanager
    def on(self, subject: Any, /) -> Iterator[None]:
        """Nothing is changed."""
        yield


def case_of(
    studio: Studio,
    base: Subject,
    name: str,
    pictures: int,
    seed: int,
    pictures_seed: int = _PICTURES,
    gold: str | None = None,
) -> Case:
    """What the probes are asked of a concept; pictures show nothing else that a gold model never saw."""
    found = studio.world.pictures_of(name, pictures, seed=pictures_seed, gold=gold)
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


def erased_by(
    studio: Studio, base: Subject, name: str, method: str, gold: Subject, folder: Path | None = None
) -> Subject:
    """A member of the panel; what is fitted is kept in the folder."""
    if method == "gold":
        return Subject(ERASED, gold.view)
    if method == "base":
        return Subject(ERASED, base.view, Nothing())
    if method == "sham":
        norms = Panel(base, Subject(ERASED, base.view, fitted(studio, name, "uce", folder))).moved
        return Subject(ERASED, base.view, ShamEdit(norms, seed=1))
    return Subject(ERASED, base.view, fitted(studio, name, method, folder))


def fitted(studio: Studio, name: str, method: str, folder: Path | None) -> Any:
    """An erasure, from the folder if it was fitted before."""
    if folder is None:
        return studio.fit(name, method)
    place = folder / f"fit-{spelled(name)}-{spelled(method)}"
    if not place.exists():
        studio.fit(name, method).save(place)
    return load(place)


def spelled(name: str) -> str:
    """A name as a file name.

    >>> spelled("uce"), spelled("black and white")
    ('uce', 'black-and-white-807ef3')
    """
    plain = re.sub(r"[^a-z0-9-]", "-", name.lower())
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


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
    variant = args.gold or studio.world.gold_of(name)
    if variant is None:
        raise SystemExit(f"no gold model of {name}: there are {', '.join(studio.world.variants())}")
    gold = Subject(GOLD, PipelineView.of(studio.world.load_pipeline(variant)))
    case = case_of(studio, base, name, args.pictures, seed, gold=variant)
    every = probes(args.suite)
    chosen = [p for p in every if not args.only or p.name in args.only]
    budgets = budgets_of(every, args.suite, args.scale)  # whatever is chosen: what is kept goes by them
    settings = {"world": args.world, "base": args.base, "gold": variant, "pictures": args.pictures, "seed": seed}
    settings |= {"sampling": {k: repr(v) for k, v in case.sampling.items()}, "budgets": repr(budgets)}
    shared: dict[Any, Any] = {}
    rows: dict[str, list[Row]] = {}
    verdicts: dict[str, Verdict] = {}
    seconds: dict[str, float] = {}
    for method in args.methods:
        panel = Panel(base, erased_by(studio, base, name, method, gold, args.folder), gold)
        where = None if args.folder is None else args.folder / f"scores-{spelled(name)}-{spelled(method)}-{seed}"
        saved, start = Checkpoint(where, settings, what="audit"), cpu()
        facts = Facts(bool(panel.moved), gold=True)
        runner = Runner(panel, case, saved, budgets, shared, args.processes, sham=False, more=args.more)
        ran = settled(runner, chosen, args.suite, facts, seed=seed)
        rows[method] = [row for one in ran for row in one.rows(seed=seed)]
        seconds[method] = cpu() - start
        verdicts[method] = decide(rows[method], facts)
        if args.folder is not None:
            told = {"concept": name, "method": method, "seed": seed, "verdict": verdicts[method].kind}
            told |= {"because": verdicts[method].because, "rows": [asdict(row) for row in rows[method]]}
            write_json(args.folder / f"told-{spelled(name)}-{spelled(method)}-{seed}.json", told)
        for one in ran:
            for model, why in one.why.items():
                print(f"{method}, {one.probe.name}, {model}: {why}", flush=True)
        print(f"\n{name}, {method}: {verdicts[method].kind}; reversible: {verdicts[method].reversible}", flush=True)
        for text in verdicts[method].because:
            print(f"  - {text}")
        for row in rows[method]:
            print(f"  {row.title}: {said(row.model, row)}; {recovered(row)}", flush=True)
    report(name, seed, rows, verdicts, seconds)


def cpu() -> float:
    """CPU seconds of this process and of those that it started."""
    spent = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


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


def named(probe: str) -> str:
    """The name of a probe, on the command line.

    >>> named("direct prompt")
    'direct prompt'
    """
    try:
        return find_probe(probe).name
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", default=["circle"])
    parser.add_argument("--base", help="variant that is erased from")
    parser.add_argument("--suite", default="quick", choices=("quick", "full"))
    methods = ["base", "sham", "semantic-surgery", "uce", "esd@steps=100", "gradient-ascent"]
    parser.add_argument("--methods", nargs="*", default=methods)
    parser.add_argument("--only", nargs="*", type=named)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: the world's)")
    parser.add_argument("--gold", help="variant of the gold model (default: the one that never saw the concept)")
    parser.add_argument("--more", type=int, default=MORE, help="times the items, while a verdict is open")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    studio = Studio.of(args, steps=args.steps)
    if args.base is None:
        args.base = _EQUAL if _EQUAL in studio.world.variants() else "base"
    if args.pipeline is None:
        studio.view = PipelineView.of(studio.world.load_pipeline(args.base))
    for name in studio.concepts(args.concepts):
        for seed in args.seeds:
            run(args, studio, name, seed)


if __name__ == "__main__":
    main()
