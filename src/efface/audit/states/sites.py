"""The audit of vectors site by site: how well a concept is read in each place, before and after it is taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._progress import progress
from efface.audit.audit import Audit
from efface.audit.finding import Finding
from efface.audit.states import site_text
from efface.audit.states.control import control_labels
from efface.audit.states.folded import Asked, FitStates, measure_folded
from efface.audit.states.measures import FAMILIES, PROBES_BY_SITE, Setting, measure_site
from efface.audit.states.pictures import accuracy_by_site
from efface.audit.states.reading import check_same_sites, read_column, read_vectors
from efface.audit.subjects import HasSites
from efface.audit.vectors.folds import make_folds, repeated
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probe_text import copied, thin
from efface.audit.vectors.probes import threads_for
from efface.core.column_names import check_same_rows, compare_tables
from efface.core.doors import check_call
from efface.core.provenance import called, provenance
from efface.report.data import AFTER, BEFORE

_HEADLINES_AT_MOST = 20


def sites(
    before: Any,
    after: Any,
    z: Any,
    *,
    fit: FitStates | None = None,
    groups: Any = None,
    control: Any = None,
    name: str = "concept",
    classes: tuple[str, ...] | None = None,
    title: str = "",
    probes: Sequence[str] | None = None,
    folds: int = 5,
    max_rows: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Ask fresh probes for the concept at each site, before and after erasure.

    Each row is scored once, by probes that were trained on other rows; the same folds serve all sites. Two ways to
    say what is to be audited:

    - `sites(model, data, labels, fit=...)` scrubs a model and reads it: in every fold `fit(model, data, labels)` is
      called with training sequences alone and gives a scrubber, so that neither it nor the probes have seen what is
      scored: with one half of them, while the probes learn from the other, then the other way round (see `rows`). Whole
      sequences are held out, or whole `groups` of them.
    - `sites(before, after, z)` takes vectors as they come: they should be of rows that the erasers were *not* fitted
      on. The audit warns of rows that give themselves away; those among many other rows of the fit do not.

    Per site the findings are, under the site's name: the held-out accuracy (family `"linear probe"`) against the share
    of the most common class, the `"information"` in bits, and the `"class-mean gap"` in sample; with `control` also
    the accuracy on the `"control task"` and the `"selectivity"`, real minus control (Hewitt and Liang,
    arXiv:1909.03368).

    The linear probe is logistic regression, 60 steps of L-BFGS in float32 on standardised columns at each of up to
    seven penalties, of which inner folds choose. Time grows as rows times width times classes.

    Args:
        before: Site -> vectors `(n, d)`, the same rows at every site; `d` may differ. Or a model, with `fit`.
        after: The same sites and shapes after erasure; None audits the model as it is. With `fit`, the data: a mapping
            of arrays `(n, ...)` or token ids `(n, length)`.
        z: The concept `(n,)`: integers, booleans or text. With `fit`, labels as `efface.scrub` takes them.
        fit: Model, data and labels -> a scrubber, e.g. `lambda m, x, z: efface.scrub(m, x, z, sites="norms")`; called
            twice a fold, with half of its training sequences. Hidden states of `max_rows` rows are kept three times.
        groups: What must not be split, `(n,)`, e.g. the sequence or file of each token, or with `fit` of each
            sequence: whole groups are held out, and intervals resample whole groups.
        control: What each row is a token of, `(n,)`, e.g. token ids (with `fit` `(n, length)`): each kind gets a random
            control label.
        name: What to call the concept on the page.
        classes: Names of the classes, in the order of their sorted labels.
        title: Title of the audit.
        probes: `"linear"`, `"mlp"` or both; None takes both with `fit`, and of vectors the linear one.
        folds: Number of folds.
        max_rows: With `fit`, tokens that are read, drawn at random.
        level: Confidence level of the intervals.
        seed: Seed of folds, control labels, shuffles and resampling.

    Returns:
        An `Audit`: findings in the order of the sites, the figure of accuracy by site, conclusions and caveats.

    Raises:
        InputError: If there is no site, sites or shapes differ between before and after, lengths differ, vectors hold
            NaN, or labels are not classes, are of one class, or lack a class in a training fold.
        MissingExtraError: If scikit-learn is not installed.

    Does not guarantee: that a stronger probe finds nothing; that the concept is not used elsewhere or computed anew
    behind a site; coverage of the intervals over all sites together.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.integers(0, 2, 200)
    >>> x = {"layers.0": rng.normal(size=(200, 3)) + 2 * z[:, None]}
    >>> audit = sites(x, {"layers.0": 0 * x["layers.0"]}, z)
    >>> [audit.find("linear probe", "layers.0", side).verdict for side in ("before", "after")]
    ['above chance', 'at chance']
    """
    check_call(sites, locals())
    call = called("efface.audit.sites", locals())
    chosen = _probes(probes, ("linear",) if fit is None else tuple(PROBES_BY_SITE))
    if fit is not None:
        given = Asked(before, after, z, fit, groups, control, name, classes, folds, chosen, max_rows, seed, level)
        findings, names, setting, width = measure_folded(given)
        origin = provenance(subject=before, data={"data": after, "labels": z}, seed=seed, call=call)
        audit = _audit(title, findings, names, setting, folds, name, inside=True)
        told = (r for sites in site_text.readings(findings).values() for r in sites.values())
        few = thin(len(setting.labels) * (folds - 1) // folds // 2, width, told)
        return replace(audit, conclusions=(*few, *audit.conclusions), provenance=origin)
    if isinstance(before, HasSites):
        raise InputError(
            "a model is audited with fit=, e.g. efface.audit.sites(model, data, labels, "
            "fit=lambda m, x, z: efface.scrub(m, x, z, sites='norms'))"
        )
    for side in (before, after):
        for rows in side.values() if isinstance(side, Mapping) else ():
            check_same_rows(rows=rows, z=z, groups=groups, control=control)
    labels = _labels(z, name, classes)
    sides = _sides(before, after, len(labels))
    units, items = read_column(groups, "groups", len(labels)), read_column(control, "control", len(labels))
    drawn = None if items is None else control_labels(items, labels, seed=seed)
    splits = make_folds(len(labels), folds, groups=units, strata=labels.values, seed=seed)
    setting = Setting(labels, drawn, units, splits, seed, level, chosen)
    names = list(sides[BEFORE])
    findings = []
    with progress("probing", len(names), unit="sites") as bar:
        for site in names:
            with threads_for(sides[BEFORE][site].numel()):
                findings += measure_site(site, {c: _float64(x[site]) for c, x in sides.items()}, setting)
            bar.update(1)
    origin = provenance(data={**sides, "z": z, "groups": groups, "control": control}, seed=seed, call=call)
    copies = min(repeated(x, splits) for x in sides[BEFORE].values())
    audit = _audit(title, findings, names, setting, folds, name)
    said = (*copied(copies, len(labels)), *audit.conclusions)
    return replace(audit, conclusions=said, provenance=origin)


def _probes(given: Sequence[str] | None, usual: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(usual if given is None else given)
    unknown = [p for p in chosen if p not in PROBES_BY_SITE]
    if unknown or not chosen:
        raise InputError(f"unknown probes {unknown}: choose at least one of {', '.join(PROBES_BY_SITE)}")
    return chosen


def _audit(
    title: str,
    findings: list[Finding],
    sites: list[str],
    setting: Setting,
    folds: int,
    name: str,
    *,
    inside: bool = False,
) -> Audit:
    labels, erased = setting.labels, any(f.condition == AFTER for f in findings)
    figure = accuracy_by_site(f"How well can {name} be read at each site?", findings, sites)
    return Audit(
        title or (f"Erasing {name}, site by site" if erased else f"Where {name} can be read"),
        text=site_text.probed(
            labels,
            sites=len(sites),
            folds=folds,
            groups=setting.groups,
            control=setting.control,
            probes=len(setting.probes),
            inside=inside,
        ),
        conclusions=tuple(site_text.conclusions(findings, name)),
        findings=_ordered(findings, len(sites)),
        figures=(figure,),
        caveats=site_text.probing_caveats(
            labels, sites=len(sites), grouped=setting.groups is not None, erased=erased, inside=inside
        ),
        settings={
            "rows": len(labels),
            "sites": sites,
            "classes": list(labels.classes),
            "folds": folds,
            "probes": list(setting.probes),
            "seed": setting.seed,
            "level": setting.level,
        },
    )


def _ordered(findings: Sequence[Finding], sites: int) -> tuple[Finding, ...]:
    """By measure, then by site; accuracy is headline unless there are too many sites for a page."""
    small = sites > _HEADLINES_AT_MOST
    return tuple(replace(f, detail=f.detail or small) for family in FAMILIES for f in findings if f.family == family)


def _labels(z: Any, name: str, classes: tuple[str, ...] | None) -> Labels:
    labels = Labels.of(z, name, classes=classes)
    if not labels.is_categorical:
        raise InputError(f"z holds numbers, and sites are audited for classes: write integers, e.g. {name}.long()")
    return labels


def _sides(before: Any, after: Any, n: int) -> dict[str, dict[str, Tensor]]:
    """Vectors of each site under `"before"` and, if there are any, `"after"`."""
    sides = {BEFORE: read_vectors(before, "before", n)}
    if after is None:
        return sides
    sides[AFTER] = read_vectors(after, "after", n)
    check_same_sites(sides[BEFORE], sides[AFTER], ("before", "after"))
    for site in before:
        compare_tables(before[site], after[site], (f"before[{site!r}]", f"after[{site!r}]"))
    for site, x in sides[BEFORE].items():
        if x.shape != sides[AFTER][site].shape:
            shapes = f"{tuple(x.shape)} before and {tuple(sides[AFTER][site].shape)} after"
            raise InputError(f"{site} has shape {shapes}: the shape must stay")
    return sides


def _float64(x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return x.to(torch.float64).numpy()
