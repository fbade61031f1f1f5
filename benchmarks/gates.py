"""The gates of Semantic Surgery and CGCE as detectors, on prompts of a world that neither was fitted on.

python -m benchmarks.gates [--world shapes] [--methods semantic-surgery cgce] [--concepts star ...] [--prompts 60]
    [--out FOLDER]

Three kinds of prompts have the concept: by its name in templates of the training split, by its name in templates that
nothing was trained on, and by synonyms in such templates (half of them words that the denoiser never read). Prompts
without it ask for the other concepts of its factor, in held-out templates. Fits and calibration are those of
`benchmarks.erasing`. AUROC has a bootstrap over prompts, shares have Wilson's interval. `--out` writes a page with the
ROC curves for each method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import efface.audit
from benchmarks._measure import cell, table
from benchmarks._studio import Studio, add_world
from efface.audit.audit import Audit
from efface.audit.pipelines.detection import ALARM, AUROC, DETECTION, FIRED

METHODS = ("semantic-surgery@published", "semantic-surgery", "cgce")
_HELD_OUT_SEED = 940


def audits(studio: Studio, method: str, name: str, n: int) -> dict[str, Audit]:
    """Kind of prompts -> audit of the gate of one concept."""
    erasure, others = studio.fit(name, method), studio.others_of(name)
    absent = [p for o in others for p in studio.held_out(o, max(1, n // len(others)), _HELD_OUT_SEED)]
    kinds = {
        "named": studio.prompts_of(name, n),
        "held-out templates": studio.held_out(name, n, _HELD_OUT_SEED),
        "synonyms": studio.paraphrases_of(name, n),
    }
    return {
        kind: efface.audit.gate(
            studio.view,
            erasure,  # type: ignore[arg-type]
            present=present,
            absent=absent,
            title=f"{method}: {name}, {kind}",
        )
        for kind, present in kinds.items()
    }


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", help="default: those of the world's tables")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    studio = Studio.of(args)
    for method in args.methods:
        rows: list[list[str]] = []
        for name in studio.concepts(args.concepts):
            found = audits(studio, method, name, args.prompts)
            curves = [cell(audit.find(DETECTION, name, AUROC), 1, 3) for audit in found.values()]
            fired = [cell(audit.find(DETECTION, name, FIRED), 100, 0) for audit in found.values()]
            alarm = next(iter(found.values())).find(DETECTION, name, ALARM)
            rows.append([name, *curves, *fired, cell(alarm, 100, 1)])
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                for kind, audit in found.items():
                    audit.save(args.out / f"{method}-{name}-{kind.replace(' ', '-')}")
        kinds = ("named", "held-out templates", "synonyms")
        header = ("concept", *(f"AUROC, {k}" for k in kinds), *(f"fires %, {k}" for k in kinds), "false alarms %")
        table(f"{method}, {args.prompts} prompts of a kind", header, rows)


if __name__ == "__main__":
    main()
