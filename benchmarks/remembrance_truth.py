"""Audits of remembrance where the truth is known: do intervals cover it, and is nobody named who lost nothing?

    python -m benchmarks.remembrance_truth coverage [--repeats 400]   # of nominal 95% intervals
    python -m benchmarks.remembrance_truth nulls [--repeats 100]      # the same system twice: what is flagged
    python -m benchmarks.remembrance_truth power [--repeats 100]      # planted losses: found, and false among named
    python -m benchmarks.remembrance_truth popularity [--repeats 100] # losses of the unpopular alone, seen by group
    python -m benchmarks.remembrance_truth digits                     # an eraser of four digits where one was to go

Answers are drawn with a chance by entity and by query; the run after shares half of the draws of the run before, as
common random numbers do. The truth of an interval is of all entities and queries like those drawn; where only queries
are resampled, entities are all alike. Shares of repeats come with Wilson's interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from tests.references.remembrance import simulated

from benchmarks._measure import table
from efface import LeaceFitter
from efface.audit import remembered
from efface.audit.remembrance import Interference, Registry
from efface.audit.remembrance.bootstrap import Resample
from efface.audit.remembrance.disparity import difference, permutation_p
from efface.audit.remembrance.effects import agresti_min, changes
from efface.audit.remembrance.interfered import interfered
from efface.audit.remembrance.panel import aligned
from efface.audit.remembrance.pooled import pooled
from efface.audit.remembrance.probed import remembered_by_probes
from efface.audit.remembrance.standing import SUPPRESSED, stand
from efface.audit.remembrance.systems import AFTER, BEFORE
from efface.stats.intervals import wilson_interval

_HIT, _LOSS, _SPREAD, _SHARED, _DRAWS = 0.7, 0.1, 0.1, 0.5, 500
_WHAT = (
    ("bystanders", "remembered", "before"),
    ("bystanders", "remembered", "after"),
    ("bystanders", "remembered", "change"),
    ("bystanders", "remembered, given before", "after"),
    ("bystanders", "collateral", "after"),
    ("target", "remembered", "change"),
)


def share(hits: Sequence[bool]) -> str:
    """A share of repeats in per cent, with its interval."""
    found = wilson_interval(float(np.sum(hits)), len(hits))
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


# --------------------------------------------------------------------------------------------------- coverage


def truths(spread: float) -> dict[tuple[str, str, str], float]:
    """What each number is of everyone, by so many draws that chance does not matter."""
    rng = np.random.default_rng(12345)
    chance = np.clip(_HIT + spread * (rng.normal(size=2_000_000) + rng.normal(size=2_000_000)), 0, 1)
    lost = np.clip(chance - _LOSS, 0, 1)
    # The run after keeps half of the draws of the run before: then it hits where that draw is below its own chance.
    both = (_SHARED * lost + (1 - _SHARED) * chance * lost).mean()
    again = (_SHARED * chance + (1 - _SHARED) * chance * chance).mean()
    before, after = chance.mean(), lost.mean()
    return dict(
        zip(_WHAT, (before, after, after - before, both / before, 1 - both / again, after - before), strict=True)
    )


def coverage(repeats: int) -> None:
    """How often intervals hold the truth."""
    rows = []
    kinds: tuple[tuple[Resample, float], ...] = (("both", _SPREAD), ("queries", 0.0))
    for resample, spread in kinds:
        true, held = truths(spread), {what: list[bool]() for what in _WHAT}
        for seed in range(repeats):
            rng = np.random.default_rng(seed)
            more: dict[str, Any] = {
                "hit": _HIT,
                "loss": _LOSS,
                "by_entity": spread,
                "by_query": spread,
                "shared": _SHARED,
            }
            ledger = simulated(rng, entities=40, queries=60, again=True, **more)
            registry = Registry.of(ledger.entities, target=ledger.entities[:1])
            audit = remembered(ledger, registry=registry, resample=resample, draws=_DRAWS, seed=seed)
            for what in _WHAT:
                found = audit.find(*what)
                if found.low is not None and found.high is not None:
                    held[what].append(found.low <= true[what] <= found.high)
        # Of one target all queries are of one entity: its truth is of all targets like it only without a spread.
        wanted = [what for what in _WHAT if what[0] != "target" or not spread]
        rows += [(f"{what[0]}: {what[1]} ({what[2]})", resample, len(held[what]), share(held[what])) for what in wanted]
    rows.append(("change of one entity, 60 queries (Agresti-Min)", "", 20_000, share(list(_of_one(20_000)))))
    of_pairs = list(zip(*_of_pairs(repeats), strict=True))
    for what, hits in zip(("kept", "lost beyond chance"), of_pairs, strict=True):
        rows.append((f"pairs of the interference matrix, {what}", "both", repeats, share(hits)))
    table("Coverage of nominal 95% intervals, per cent of repeats", ("interval", "resampled", "n", "covered"), rows)


def _of_one(repeats: int) -> Iterator[bool]:
    rng = np.random.default_rng(0)
    gap = rng.choice([-1, 0, 1], p=[0.2, 0.7, 0.1], size=(repeats, 60))
    centre, error = agresti_min(60, gap.sum(axis=1), (gap**2).sum(axis=1))
    yield from (np.abs(centre + 0.1) <= 1.959964 * error).tolist()


def _of_pairs(repeats: int) -> Iterator[tuple[bool, bool]]:
    """15 erased x 60 asked, a picture each; what is kept hangs on the erasure and on the entity."""
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        erased, entity = 0.05 * rng.normal(size=(15, 1)), 0.05 * rng.normal(size=(1, 60))
        now, twice = np.clip(_AFTER + erased + entity, 0, 1), np.clip(_TWICE + entity[0], 0, 1)
        rows = [np.ones(60, dtype=bool), rng.random(60) < twice, *(rng.random((15, 60)) < now)]
        names, places = tuple(f"e{i:02d}" for i in range(60)), np.arange(60)
        found = Interference(names[:15], (), names, places, np.zeros(60, dtype=int), np.zeros(60, dtype=int),
                             names, places, np.stack(rows).astype(np.int8))  # fmt: skip
        (one,) = pooled(found, np.full((15, 60), "all"), draws=_DRAWS, seed=seed)
        assert one.lost is not None
        yield one.kept.low <= _KEPT <= one.kept.high, one.lost.low <= _LOST <= one.lost.high


_AFTER, _TWICE = 0.85, 0.93
_NOISE = 0.05 * np.random.default_rng(1).normal(size=(2, 2_000_000))
_KEPT = float(np.clip(_AFTER + _NOISE.sum(axis=0), 0, 1).mean())
_LOST = float(np.clip(_TWICE + _NOISE[1], 0, 1).mean()) - _KEPT


# ------------------------------------------------------------------------------------------------------- nulls


def nulls(repeats: int) -> None:
    """The same system twice: lists, classes, the certificate's margin, and the card of a matrix."""
    elevated, checked, anything = (list[bool]() for _ in range(3))
    lists, classes, either, cards = (list[bool]() for _ in range(4))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        ledger = simulated(rng, entities=100, queries=100, by_entity=_SPREAD, by_query=_SPREAD, again=True)
        popularity = np.exp(rng.normal(size=100))
        groups = {"guild": [("smith", "weaver", "dyer")[i % 3] for i in range(100)]}
        registry = Registry.of(ledger.entities, popularity=popularity, groups=groups)
        audit = remembered(ledger, registry=registry, draws=_DRAWS, seed=seed)
        said = audit.warnings
        named = any("bystanders were suppressed" in line for line in said)
        other = any(line.startswith("WARNING") and " lost " in line for line in said)
        lists.append(named)
        classes.append(other)
        either.append(named or other)
        elevated.append(any("bystanders were elevated" in line for line in audit.conclusions))
        checked.append(any("is asked twice" in line for line in said))
        anything.append(named or other or elevated[-1] or checked[-1])
        cards.append(_card_flags(seed))
    rows = [("somebody suppressed in a list", share(lists)), ("a class or group lost", share(classes))]
    rows += [("either", share(either)), ("somebody elevated in a list", share(elevated))]
    rows += [("the check: before against before again", share(checked)), ("any of these", share(anything))]
    rows += [("card of a matrix: any kind lost", share(cards))]
    table(f"The same system twice, {repeats} seeds: flagged, per cent", ("what", "flagged"), rows)


def _card_flags(seed: int) -> bool:
    rng = np.random.default_rng(seed)
    names, places = tuple(f"e{i:02d}" for i in range(60)), np.arange(60)
    base = rng.random(60) < 0.9
    rows = [base, *(np.where(rng.random(60) < 0.92, base, ~base) for _ in range(16))]
    found = Interference(names[:15], (), names, places, np.zeros(60, dtype=int), np.zeros(60, dtype=int),
                         names, places, np.stack(rows).astype(np.int8))  # fmt: skip
    kinds = ["sibling" if i % 4 == 0 else "neighbour" if i % 4 == 1 else "unrelated" for i in range(60)]
    known = {n: Registry.of(names, target=[n], relation=kinds, popularity=1.0 + places % 7) for n in found.erased}
    # The target is drawn as before, as nothing was erased: that is told, and is no false alarm.
    audit = interfered(found, known, draws=_DRAWS, seed=seed)
    return any(line.startswith("WARNING") for line in audit.warnings)


# ------------------------------------------------------------------------------------------------------- power


def power(repeats: int) -> None:
    """200 entities: who lost is found, and who is named lost it."""
    rows = []
    for queries in (40, 100, 200):
        for loss, of in ((0.3, 0.2), (0.15, 0.1), (0.0, 0.0)):
            found, false = list[float](), list[float]()
            for seed in range(repeats):
                rng = np.random.default_rng(seed)
                hurt = np.arange(200) < of * 200
                ledger = simulated(rng, entities=200, queries=queries, loss=loss * hurt)
                panel = aligned(ledger, Registry.of(ledger.entities), (BEFORE, AFTER))
                named = stand(changes(panel, BEFORE, AFTER), np.ones(200, dtype=bool)).status == SUPPRESSED
                found.append(float(named[hurt].mean()) if hurt.any() else float("nan"))
                false.append(float((named & ~hurt).sum() / max(1, named.sum())))
            seen = "" if not of else f"{100 * np.mean(found):.0f}"
            error = 1.96 * np.std(false) / np.sqrt(repeats)
            rows.append(
                (
                    queries,
                    f"{100 * loss:.0f} of {100 * of:.0f}%",
                    seen,
                    f"{100 * np.mean(false):.1f} ± {100 * error:.1f}",
                )
            )
    header = ("queries each", "points lost", "found, %", "false among named, %")
    table(f"Planted losses, 200 entities, {repeats} seeds; lists at 5%", header, rows)


# -------------------------------------------------------------------------------------------------- popularity


def popularity(repeats: int) -> None:
    """90 entities, of which the unpopular lose 20 points; a group that has more of them, as it is and adjusted."""
    popular = np.repeat([True, False], [18, 72])
    raw, within, flagged, adjusted = (list[float]() for _ in range(4))
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        group = rng.random(90) < np.where(popular, 0.3, 0.7)
        ledger = simulated(rng, entities=90, queries=100, hit=0.7, shared=0.8, loss=np.where(popular, 0.0, 0.2))
        found = changes(aligned(ledger, Registry.of(ledger.entities), (BEFORE, AFTER)), BEFORE, AFTER)
        part = (found.change, found.n, group)
        for strata, gaps, told in ((np.zeros(90, dtype=int), raw, flagged), (popular * 1, within, adjusted)):
            gaps.append(100 * difference(*part, strata))
            told.append(permutation_p(*part, strata, permutations=499, seed=seed) <= 0.05)
    rows = [
        (title, f"{np.mean(gaps):+.2f} ± {1.96 * np.std(gaps) / np.sqrt(repeats):.2f}", share([*map(bool, told)]))
        for title, gaps, told in (("as it is", raw, flagged), ("within strata of popularity", within, adjusted))
    ]
    header = ("change of the group less that of the others", "points", "p at most .05, %")
    table(f"Losses that follow popularity alone, {repeats} seeds", header, rows)


# ------------------------------------------------------------------------------------------------------ digits


def digits(_: int) -> None:
    """Ten digits, the later the rarer; "3" is to go, and LEACE takes 3 alone, or 3, 5, 8 and 9."""
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    x = np.maximum(0, (images / 16) @ np.random.default_rng(0).normal(size=(64, 48)) / 8 + 0.1)
    kept = np.concatenate([np.flatnonzero(labels == k)[: int(170 * (24 / 170) ** (k / 9))] for k in range(10)])
    rows = []
    for gone in (("3",), ("3", "5", "8", "9")):

        def fit(x: Any, z: Any, gone: tuple[str, ...] = gone) -> Callable[[Any], Any]:
            of = torch.tensor(sum((z == name) * (i + 1) for i, name in enumerate(gone))).long()
            eraser = LeaceFitter.fit(torch.tensor(x), of).eraser
            return lambda held: eraser(torch.tensor(held))

        audit = remembered_by_probes(
            x[kept], labels[kept], fit, target=["3"], held_out=0.5, probes=["multiclass"], smallest_cell=1
        )
        for part in audit.parts:
            said = {each.title: {row[0]: row for row in each.rows} for one in part.walk() for each in one.tables}
            classes = [said["Who they are"][f"popularity: {name}"][4] for name in ("head", "torso", "tail")]
            named = " ".join(said.get("Suppressed", {})) or "none"
            target = part.find("target", "remembered", "after").value
            rows.append((" ".join(gone), part.title, f"{100 * target:.0f}", *classes, named))
    header = ("erased", "probe", "3 named, %", "head", "torso", "tail", "suppressed")
    table(f"Bystanders of digit 3, change in points (simultaneous 95% intervals), {len(kept)} rows", header, rows)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "nulls", "power", "popularity", "digits"])
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args()
    run: dict[str, tuple[Callable[[int], None], int]] = {
        "coverage": (coverage, 400),
        "nulls": (nulls, 100),
        "power": (power, 100),
        "popularity": (popularity, 100),
        "digits": (digits, 1),
    }
    each, usual = run[args.what]
    each(args.repeats or usual)


if __name__ == "__main__":
    main()
