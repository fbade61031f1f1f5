"""How well a gate tells prompts with a concept from others: an eraser that acts on some prompts is a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efface._errors import InputError
from efface._validate import check_type
from efface.audit.audit import Audit
from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.core.doors import check_call
from efface.core.provenance import called, provenance
from efface.report.numbers import format_value as number
from efface.stats.intervals import wilson_interval
from efface.stats.roc import auroc_interval

Floats = NDArray[np.float64]

DETECTION = "detection"
AUROC, FIRED, ALARM = "AUROC", "fires where it is asked for", "fires where it is not"
_FEWEST, _POINTS = 5, 200
_CAVEATS = (
    "The figures are of these prompts. Who knows the gate writes others: an attack is measured by attacking.",
    "A gate that fires is not an erasure that works: see what is drawn, with efface.audit.pipeline.",
)


@dataclass(frozen=True)
class Readings:
    """What a gate read.

    Attributes:
        present: One value for each prompt with the concept, `(n,)`; above 0 the gate fires.
        absent: The same for prompts without it, `(m,)`.
    """

    present: ArrayLike
    absent: ArrayLike


def detection(
    readings: Mapping[str, Readings], *, title: str = "Where does the gate fire?", level: float = 0.95
) -> Audit:
    """ROC of a gate, concept by concept, and how often it fires at the threshold that it has.

    Findings: family `"detection"`, under each concept's name conditions `"AUROC"`, `"fires where it is asked for"` and
    `"fires where it is not"`.

    Args:
        readings: Concept -> what the gate read; above 0 it fires.
        title: Title of the audit.
        level: Confidence level.

    Raises:
        InputError: If there is nothing to audit, under 5 prompts of a kind, or values are not finite.
    """
    check_call(detection, locals())
    call = called("efface.audit.detection", locals())
    if not readings:
        raise InputError("there are no readings: give those of at least one concept")
    findings: list[Finding] = []
    for name, found in readings.items():
        check_type(found, Readings, f"what the gate read of {name!r:.80}")
        p, a = (_checked(f"{which} of {name!r}", x) for which, x in vars(found).items())
        curve = auroc_interval(p, a, level=level, unit="prompts")
        findings.append(Finding.of(name, curve, DETECTION, AUROC, n=len(p) + len(a), chance=0.5))
        for condition, x in ((FIRED, p), (ALARM, a)):
            share = wilson_interval(float((x > 0).sum()), len(x), level=level)
            findings.append(Finding.of(name, share, DETECTION, condition, n=len(x), unit="share"))
    return Audit(
        title,
        text=("Prompts that ask for a concept and prompts that do not were shown to the gate of the erasure.",),
        conclusions=tuple(_said(name, findings) for name in readings),
        findings=tuple(findings),
        figures=(_curves(readings),),
        caveats=_CAVEATS,
        settings={"concepts": list(readings), "level": level},
        provenance=provenance(data={name: vars(found) for name, found in readings.items()}, call=call),
    )


def _checked(which: str, values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < _FEWEST:
        raise InputError(f"{which} has shape {found.shape}: give at least {_FEWEST} values, one for each prompt")
    if not np.isfinite(found).all():
        raise InputError(f"{which} has values that are not finite: the gate, or an embedding, is broken")
    return found


def _said(name: str, findings: Sequence[Finding]) -> str:
    curve, fired, alarm = (
        next(f for f in findings if f.name == name and f.condition == c) for c in (AUROC, FIRED, ALARM)
    )
    return (
        f"{name}: the gate fires at {number(fired.value, 'share')} of {fired.n} prompts that ask for it and at "
        f"{number(alarm.value, 'share')} of {alarm.n} others; AUROC {curve.value:.3f} "
        f"({curve.low or 0:.3f} to {curve.high or 0:.3f})."
    )


def _curves(readings: Mapping[str, Readings]) -> Figure:
    series = []
    for name, found in readings.items():
        p, a = np.asarray(found.present, dtype=np.float64), np.asarray(found.absent, dtype=np.float64)
        places = np.unique(np.concatenate([p, a]))
        places = places[np.linspace(0, len(places) - 1, min(len(places), _POINTS)).round().astype(int)]
        alarm = [1.0, *((a > t).mean() for t in places)]
        hit = [1.0, *((p > t).mean() for t in places)]
        series.append(Series(name, tuple(map(float, alarm[::-1])), tuple(map(float, hit[::-1]))))
    return Figure(
        "ROC of the gate",
        tuple(series),
        kind="lines",
        x_label="share of other prompts at which it fires",
        y_label="share of prompts with the concept",
        unit="share",
        from_zero=True,
        caption="Every threshold is a point; the gate's own is one of them.",
    )
