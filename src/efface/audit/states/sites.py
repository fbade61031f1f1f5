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
from efface.audit.states.measures import FAMILIES, Setting, measure_site
from efface.audit.states.pictures import accuracy_by_site
from efface.audit.states.reading import check_same_sites, read_column, read_vectors
from efface.audit.vectors.folds import make_folds
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probes import threads_for
from efface.core.provenance import called, provenance
from efface.report.data import AFTER, BEFORE

_HEADLINES_AT_MOST = 20


def sites(
    before: Mapping[str, Any],
    after: Mapping[str, Any] | None,
    z: Any,
    *,
    groups: Any = None,
    control: Any = None,
    name: str = "concept",
    classes: tuple[str, ...] | None = None,
    title: str = "",
    folds: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Ask a fresh linear probe for the concept at each site, before and after erasure.

    Each row is scored once, by a probe that was trained on other rows; the same folds serve all sites. The vectors
    after erasure are taken as they come: they should be of rows that the erasers were *not* fitted on.

    Per site the findings are, under the site's name: the held-out accuracy (family `"linear probe"`) against the share
    of the most common class, the `"information"` in bits, and the `"class-mean gap"` in sample; with `control` also
    the accuracy on the `"control task"` and the `"selectivity"`, real minus control (Hewitt and Liang,
    arXiv:1909.03368).

    The probe is logistic regression, ridge penalty C = 1, 60 steps of L-BFGS in float32 on standardised columns. A fit
    of 6,400 rows of 256 numbers in 12 classes takes about 0.15 s on one core, so 13 sites before and after, with a
    control task and five folds (260 fits), take about a minute. Time grows as rows times width times classes.

    Args:
        before: Site -> vectors `(n, d)`, the same rows at every site; `d` may differ.
        after: The same sites and shapes after erasure; None audits the model as it is.
        z: The concept `(n,)`: integers, booleans or text.
        groups: What must not be split, `(n,)`, e.g. the sequence or file of each token: whole groups are held out,
            and intervals resample whole groups.
        control: What each row is a token of, `(n,)`, e.g. token ids: each kind gets a random control label.
        name: What to call the concept on the page.
        classes: Names of the classes, in the order of their sorted labels.
        title: Title of the audit.
        folds: Number of folds.
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
    call = called("efface.audit.sites", locals())
    labels = _labels(z, name, classes)
    sides = _sides(before, after, len(labels))
    units, items = read_column(groups, "groups", len(labels)), read_column(control, "control", len(labels))
    drawn = None if items is None else control_labels(items, labels, seed=seed)
    splits = make_folds(len(labels), folds, groups=units, strata=labels.values, seed=seed)
    setting = Setting(labels, drawn, units, splits, seed, level)
    names = list(sides[BEFORE])
    findings: list[Finding] = []
    with progress("probing", len(names), unit="sites") as bar:
        for site in names:
            with threads_for(sides[BEFORE][site].numel()):
                findings += measure_site(site, {c: _float64(x[site]) for c, x in sides.items()}, setting)
            bar.update(1)
    origin = provenance(data={**sides, "z": z, "groups": groups, "control": control}, seed=seed, call=call)
    return replace(_audit(title, findings, names, setting, folds, name), provenance=origin)


def _audit(title: str, findings: list[Finding], sites: list[str], setting: Setting, folds: int, name: str) -> Audit:
    labels, erased = setting.labels, any(f.condition == AFTER for f in findings)
    figure = accuracy_by_site(f"How well can {name} be read at each site?", findings, sites)
    return Audit(
        title or (f"Erasing {name}, site by site" if erased else f"Where {name} can be read"),
        text=site_text.probed(labels, sites=len(sites), folds=folds, groups=setting.groups, control=setting.control),
        conclusions=tuple(site_text.conclusions(findings, name)),
        findings=_ordered(findings, len(sites)),
        figures=(figure,),
        caveats=site_text.probing_caveats(labels, sites=len(sites), grouped=setting.groups is not None, erased=erased),
        settings={
            "rows": len(labels),
            "sites": sites,
            "classes": list(labels.classes),
            "folds": folds,
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
    for site, x in sides[BEFORE].items():
        if x.shape != sides[AFTER][site].shape:
            shapes = f"{tuple(x.shape)} before and {tuple(sides[AFTER][site].shape)} after"
            raise InputError(f"{site} has shape {shapes}: the shape must stay")
    return sides


def _float64(x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return x.to(torch.float64).numpy()
