"""Erasers of rows: which classes do probes still tell, that nobody asked to erase?

A class is remembered where a probe names it for a held-out row of it. No single probe is enough: one that was fitted
before the erasure (fixed) and one that is fitted after it (refit) disagree, and an eraser that guards a concept from
linear probes of that concept alone does not guard it from one of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._lazy import require
from efface._validate import check_int, to_tensor
from efface.audit.audit import Audit
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.registry import Registry, names_of
from efface.audit.remembrance.remembered import remembered
from efface.audit.remembrance.systems import AFTER, AGAIN, BEFORE, PLACEBO
from efface.core.doors import check_call
from efface.core.labels import read_groups

Floats = NDArray[np.float64]
Erase = Callable[[Any], Any]
_SKLEARN = "sklearn"
_STEPS = 2000


def _multiclass() -> Any:
    return require("sklearn.linear_model", extra=_SKLEARN).LogisticRegression(max_iter=_STEPS)


def _binary() -> Any:
    return require("sklearn.multiclass", extra=_SKLEARN).OneVsRestClassifier(_multiclass())


def _neighbours() -> Any:
    return require("sklearn.neighbors", extra=_SKLEARN).KNeighborsClassifier(5)


PROBES: Mapping[str, Callable[[], Any]] = {
    "multiclass": _multiclass,
    "one against the rest": _binary,
    "nearest neighbours": _neighbours,
}
"""Probes by name: linear over all classes, linear a class, and one that is not linear."""


def remembered_by_probes(
    x: Any,
    z: Any,
    fit: Callable[[Any, Any], Erase],
    *,
    target: Sequence[Any] = (),
    registry: Registry | None = None,
    probes: Sequence[str] = tuple(PROBES),
    placebos: int = 0,
    held_out: float = 0.3,
    title: str = "Which classes are still told apart?",
    seed: int = 0,
    **options: Any,
) -> Audit:
    """Audits of remembrance of an eraser of rows, a part for each probe, fixed and refitted.

    Rows are split by class. The eraser and the probes see one side, and what they say of the other is audited; the arm
    "before again" is the probe of a resample of its rows, and a placebo an eraser of labels in another order.

    Args:
        x: Rows `(n, d)`.
        z: Class of each `(n,)`.
        fit: `(x, z) -> erase`, where `erase(x)` gives rows of the same shape; z are texts.
        target: Classes that are to be erased.
        registry: What is known of the classes; None takes the target, and how often each is among the rows of the fit.
        probes: Names of `PROBES`.
        placebos: How many.
        held_out: Share of rows that is audited.
        title: Title of the audit.
        seed: Seed of the split and of what else is random.
        **options: Of `efface.audit.remembered`.

    Raises:
        InputError: If a probe is unknown, or a class has fewer than two rows on a side.
    """
    check_call(remembered_by_probes, locals())
    if strange := [name for name in probes if name not in PROBES] or ([] if len(probes) else ["none"]):
        raise InputError(f"probes has {strange[0]}: write some of {', '.join(PROBES)}")
    if not 0 < held_out < 1:
        raise InputError(f"held_out is {held_out}: write a share between 0 and 1")
    rng = np.random.default_rng(check_int(seed, "seed", least=0))
    rows, classes = to_tensor(x, "x").double().numpy(force=True), names_of(read_groups(z, "z"))
    if rows.ndim != 2 or classes.shape != rows.shape[:1]:
        raise InputError(f"x has shape {rows.shape}, z {classes.shape}: give rows (n, d), and one class for each")
    seen = _split(classes, held_out, rng)
    who = _known(classes[seen], target) if registry is None else registry
    sides = (rows[seen], classes[seen], rows[~seen])
    erase = [fit(sides[0], sides[1])]
    erase += [fit(sides[0], rng.permutation(sides[1])) for _ in range(placebos)]
    resample = _resample(sides[1], rng)
    parts = []
    for name in probes:
        for refit in (False, True):
            named = _named(PROBES[name], *sides, erase, resample, refit)
            ledger = _ledger(classes[~seen], named)
            audit = remembered(ledger, registry=who, **{"resample": "queries", "seed": seed, **options})
            parts.append(replace(audit, title=f"{name}, {'refitted' if refit else 'fixed'}"))
    return Audit(
        title,
        text=("Each part is one probe. Fixed: fitted before the erasure; refitted: on what it left.",),
        conclusions=tuple(f"{part.title}: {line}" for part in parts for line in part.conclusions[:1]),
        settings={"rows": len(rows), "audited": int((~seen).sum()), "placebos": placebos, "seed": seed},
        parts=tuple(parts),
    )


def _split(classes: NDArray[Any], held_out: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows of the fit: of each class its share, and two on each side."""
    seen = np.ones(len(classes), dtype=bool)
    for name in np.unique(classes):
        own = rng.permutation(np.flatnonzero(classes == name))
        if len(own) < 4:
            raise InputError(f"class {name} has {len(own)} rows: give at least 4 of each, two to fit and two to audit")
        seen[own[: min(len(own) - 2, max(2, round(held_out * len(own))))]] = False
    return seen


def _known(classes: NDArray[Any], target: Sequence[Any]) -> Registry:
    names, count = np.unique(classes, return_counts=True)
    return Registry.of(names.tolist(), target=target, popularity=count)


def _resample(classes: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows drawn with replacement within each class, so that none is lost."""
    parts = (np.flatnonzero(classes == name) for name in np.unique(classes))
    return np.concatenate([rng.choice(own, len(own)) for own in parts])


def _named(
    probe: Callable[[], Any],
    x: Floats,
    z: NDArray[Any],
    held: Floats,
    erase: Sequence[Erase],
    resample: NDArray[np.int64],
    refit: bool,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Arm -> classes, and which of them are named for each held-out row `(n, classes)`."""
    before = probe().fit(x, z)
    found = {BEFORE: _says(before, held), AGAIN: _says(probe().fit(x[resample], z[resample]), held)}
    for place, each in enumerate(erase):
        after = probe().fit(_rows(each(x), x), z) if refit else before
        found[f"{PLACEBO} {place}" if place else AFTER] = _says(after, _rows(each(held), held))
    return found


def _rows(erased: Any, like: Floats) -> Floats:
    found = to_tensor(erased, "what erase gives").double().numpy(force=True)
    if found.shape != like.shape:
        raise InputError(f"erase gives shape {found.shape} of rows {like.shape}: expected the same")
    return found


def _says(probe: Any, held: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """A probe a class names each that it finds likelier than not; others the likeliest."""
    if hasattr(probe, "estimators_"):
        return probe.classes_, np.stack([each.predict(held) for each in probe.estimators_], axis=1) > 0
    return probe.classes_, probe.predict(held)[:, None] == probe.classes_


def _ledger(truth: NDArray[Any], named: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Ledger:
    classes = next(iter(named.values()))[0]
    right = truth[:, None] == classes
    parts = []
    for arm, (_, said) in enumerate(named.values()):
        query, entity = np.nonzero(said | right)
        parts.append((query, entity, np.full(len(query), arm), said[query, entity], right[query, entity]))
    query, entity, arm, hit, merit = (np.concatenate(column) for column in zip(*parts, strict=True))
    width = len(str(len(truth)))
    rows = {"query": query, "entity": entity, "arm": arm, "hit": hit, "merit": merit.astype(np.float64)}
    told = np.indices((len(named), len(truth))).reshape(2, -1)
    # One that names nobody is an answer too.
    answers = {
        "arm": told[0],
        "query": told[1],
        "seed": 0 * told[0],
        "status": 0 * told[0],
        "unresolved": 0.0 * told[0],
    }
    queries = [f"{i:0{width}d}" for i in range(len(truth))]
    return Ledger.of_codes([str(name) for name in classes], queries, list(named), rows, answers)
