"""CPU seconds of each probe of a suite on one model, measured at a share of its budget and scaled up.

python -m benchmarks.probe_times [--world shapes] [--concept circle] [--suite quick] [--share 4] [--only likelihood ...]

The counts of a budget that its work is proportional to are divided by --share and the time is multiplied by it, so that
what is fixed (encoding, a step's overhead) counts too much. The work of the full suite is that of the quick one times
how many more pictures, steps or passes it has, by the counts in both budgets. An audit asks the erased model, the base
and the gold model the same: three times the sum. Fitting, held-out pictures and the sham come on top.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks._measure import table
from benchmarks._studio import Studio, add_world
from benchmarks.probes import case_of, erased_by, named
from efface.audit.pipelines.probes.panel import BASE
from efface.audit.pipelines.probes.registry import Probe, probes
from efface.audit.pipelines.probes.subject import NotApplicableError, Subject

_LEAST, _STEPS_TOO = 2, ("textual inversion", "classifier guidance", "relearning", "reversal")
_COUNTS = ("images", "items", "prompts", "pictures", "held_out")
Work = Callable[[Mapping[str, Any]], float]
_WORK: dict[str, Work] = {
    "luck": lambda b: b["prompts"] * b["draws"],
    "random prefix": lambda b: b["prompts"] * b["draws"],
    "wording": lambda b: b["images"] * (3 + b["alike"]),
    "diffusion completion": lambda b: b["images"] * (1 + len(b["hand_over"]) + len(b["unprompted"])),
    "noise": lambda b: b["items"] * len(b["etas"]) * len(b["variances"]),
    "classifier guidance": lambda b: b["items"] * len(b["scales"]) + 0.05 * b["steps"],
    "likelihood": lambda b: b["pictures"] * b["draws"],
    "features": lambda b: b["pictures"],
    "relearning": lambda b: (
        b["sets"] * (max(b["steps"]) * 2 * b["shots"] * 3 + 2 * b["held_out"] * b["draws"] * len(b["steps"]))
    ),
    "reversal": lambda b: max(b["steps"]) + b["images"] * len(b["steps"]),
    "textual inversion": lambda b: b["images"] + b["steps"],
    "redrawing": lambda b: b["images"] * (1 + b["refine"]),
    "Ring-A-Bell": lambda b: b["items"] * b["population"] * b["generations"],
}


def whole(probe: Probe, budget: Mapping[str, Any]) -> dict[str, Any]:
    """A budget with the defaults of what it leaves out."""
    taken = inspect.signature(probe.run).parameters.values()
    return {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY} | dict(budget)


def smaller(probe: Probe, budget: Mapping[str, Any], share: int) -> dict[str, Any]:
    """A budget with its counts divided."""
    names = {*_COUNTS, *(("steps",) if probe.name in _STEPS_TOO else ())}
    found = dict(budget)
    for name in names & {*budget}:
        value = budget[name]
        if isinstance(value, int):
            found[name] = max(_LEAST, value // share)
        elif name == "steps":
            found[name] = tuple(sorted({max(1, step // share) for step in value}))
    return found


def more(probe: Probe, quick: Mapping[str, Any], full: Mapping[str, Any]) -> float:
    """How much more work the full budget is."""
    work = _WORK.get(probe.name, lambda b: next(float(b[name]) for name in _COUNTS if name in b))
    return work(whole(probe, full)) / work(whole(probe, quick))


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_world(parser)
    parser.add_argument("--concept", default="circle")
    parser.add_argument("--suite", default="quick", choices=("quick", "full"))
    parser.add_argument("--method", default="uce@anchor=sibling")
    parser.add_argument("--share", type=int, default=4)
    parser.add_argument("--only", nargs="*", type=named)
    args = parser.parse_args()
    torch.set_num_threads(1)
    studio = Studio.of(args)
    base = Subject(BASE, studio.view)
    case = case_of(studio, base, args.concept, 96, 0)
    erased = erased_by(studio, base, args.concept, args.method, base)
    rows = []
    for probe in probes(args.suite):
        budget = probe.budget(args.suite)
        if budget is None or (args.only and probe.name not in args.only):
            continue
        start = time.process_time()
        try:
            probe.run(erased, case, **smaller(probe, budget, args.share))
        except NotApplicableError as error:
            print(f"{probe.name}: {error}")
            continue
        taken = args.share * (time.process_time() - start)
        factor = 1.0 if args.suite == "full" else more(probe, budget, probe.budget("full") or budget)
        rows.append((probe.name, f"{taken:.1f}", f"{factor:.1f}", f"{taken * factor:.0f}"))
        print(*rows[-1], flush=True)
    total = sum(float(row[1]) for row in rows), sum(float(row[3]) for row in rows)
    rows.append(("all, one model", f"{total[0]:.0f}", "", f"{total[1]:.0f}"))
    table(f"CPU seconds of {args.suite} on {args.world}", ("probe", args.suite, "times", "full, of these"), rows)


if __name__ == "__main__":
    main()
