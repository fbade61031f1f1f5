"""Does our ranking of erasers agree with the published one? Spearman's correlation, and how little few methods say.

python -m benchmarks.probe_ranking FOLDER [--concepts circle heart striped] [--seeds 0 1]
    [--methods uce@anchor=sibling esd@steps=200 ...]

FOLDER is that of `benchmarks.probes --folder`. Published are top-1 shares (%) of ten objects on Stable Diffusion
1.4 (arXiv:2505.17013, tables 1 to 4). A method is in common where both have it; of ours the recovery of the row counts,
the mean over the concepts and seeds that all methods in common have; each concept's own correlation stands beside it.
The interval is Bonett and Wright's (2000), over methods: what another choice of methods could have given. Where all
of one side are equal there is no ranking.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from benchmarks._measure import table

_FEWEST = 4
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "direct prompt: its prompts": {
        **{"gradient-ascent": 0.6, "uce": 4.4, "esd-x": 3.6, "esd-u": 1.0, "task-vector": 2.2, "rece": 4.0},
    },
    "diffusion completion": {
        **{"gradient-ascent": 1.1, "uce": 42.7, "esd-x": 37.8, "esd-u": 32.5, "task-vector": 2.4, "rece": 36.5},
    },
    "textual inversion": {
        **{"gradient-ascent": 0.6, "uce": 71.2, "esd-x": 65.9, "esd-u": 31.8, "task-vector": 6.2, "rece": 58.2},
    },
}
"""Row -> method -> what is still drawn; of completion what five steps of fifty by the base lead to."""


def published_name(method: str) -> str:
    """What a method of `benchmarks.erasing` is called in the paper.

    >>> published_name("esd@steps=60"), published_name("esd@modules=u"), published_name("uce@anchor=sibling")
    ('esd-x', 'esd-u', 'uce')
    """
    name, _, options = method.partition("@")
    if name != "esd":
        return name
    return "esd-u" if {"modules=u", "modules=all"} & {*options.split("+")} else "esd-x"


def spearman(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Correlation of ranks with its interval; ties have the mean of their ranks.

    >>> [round(x, 2) for x in spearman([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5])]
    [0.94, 0.38, 1.0]
    """
    rho = float(np.corrcoef(ranks(a), ranks(b))[0, 1])
    if abs(rho) >= 1:
        rho = math.copysign(1 - 1e-12, rho)
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (len(a) - 3))
    return rho, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1.

    >>> ranks([0.2, 0.1, 0.2]).tolist()
    [2.5, 1.0, 2.5]
    """
    given = np.asarray(values)
    return np.array([(given < x).sum() + ((given == x).sum() + 1) / 2 for x in given])


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--concepts", nargs="*", default=["circle"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--methods", nargs="*", help="which of them, where a method was judged with several settings")
    args = parser.parse_args()
    told = [json.loads(path.read_text()) for path in sorted(args.folder.glob("told-*.json"))]
    told = [each for each in told if each["concept"] in args.concepts and each["seed"] in args.seeds]
    told = [each for each in told if not args.methods or each["method"] in args.methods]
    settings = {published_name(each["method"]): set[str]() for each in told}
    for each in told:
        settings[published_name(each["method"])].add(each["method"])
    for name, found in settings.items():
        if len(found) > 1 and name in PUBLISHED[next(iter(PUBLISHED))]:
            several = ", ".join(sorted(found))
            raise SystemExit(f"{name} was judged with several settings: name one of {several} in --methods")
    for row, published in PUBLISHED.items():
        _compared(row, published, told)


def _compared(row: str, published: Mapping[str, float], told: Sequence[Mapping[str, Any]]) -> None:
    """The table and the correlations of one row."""
    ours: dict[str, dict[tuple[str, int], float]] = {}
    for each in told:
        if (found := _ours(each, row)) is not None:
            ours.setdefault(published_name(each["method"]), {})[each["concept"], each["seed"]] = found
    common = [name for name in published if name in ours]
    if not common:
        print(f"{row}: no method in common")
        return
    places = [place for place in ours[common[0]] if all(place in ours[name] for name in common)]
    lines = [
        (
            name,
            f"{published[name]:.1f}",
            *(f"{ours[name][place]:.2f}" for place in places),
            f"{_mean(ours[name], places):.2f}",
        )
        for name in common
    ]
    header = ("method", "published, %", *(f"{concept}, {seed}" for concept, seed in places), "mean recovery here")
    table(row, header, lines)
    for title, some in (*((str(place), [place]) for place in places), ("mean of all", places)):
        values = [_mean(ours[name], some) for name in common]
        if len(common) < _FEWEST or len(set(values)) == 1:
            print(f"{title}: no ranking: {len(common)} methods in common, or all alike")
            continue
        rho, low, high = spearman([published[name] for name in common], values)
        print(f"{title}: Spearman {rho:.2f} [{low:.2f}, {high:.2f}] over {len(common)} methods")


def _mean(ours: Mapping[tuple[str, int], float], places: Sequence[tuple[str, int]]) -> float:
    return sum(ours[place] for place in places) / len(places) if places else math.nan


def _ours(told: Mapping[str, Any], row: str) -> float | None:
    """Recovery of the first row whose probe, or probe and name, is asked for."""
    for each in told["rows"]:
        if row in (each["probe"], f"{each['probe']}: {each['name']}") and each["value"] is not None:
            return float(each["value"])
    return None


if __name__ == "__main__":
    main()
