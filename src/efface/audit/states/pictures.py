"""Figures of audits by site, as data."""

from __future__ import annotations

from collections.abc import Sequence

from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.audit.states.measures import CONTROL, PROBES
from efface.report.data import AFTER, BEFORE

_CONTROL_LABELS = {BEFORE: "control task", AFTER: "control task, after"}
_ORDER = "site, in the order given"


def accuracy_by_site(title: str, findings: Sequence[Finding], sites: Sequence[str]) -> Figure:
    """Accuracy of the linear probe before and after, of others after, and on the control task, against the site."""
    first, *others = dict.fromkeys(f.family for f in findings if f.family in PROBES)
    lines = [(c, _of(findings, first, c)) for c in (BEFORE, AFTER)]
    lines += [(f"{c}, {family}", _of(findings, family, c)) for family in others for c in (BEFORE, AFTER)]
    controls = [(label, _of(findings, CONTROL, c)) for c, label in _CONTROL_LABELS.items()]
    chance = next(f.chance for f in findings if f.family == first)
    controlled = " The control task is a random label for each word." if controls[0][1] else ""
    fresh = f"Fresh probes ({first} unless named)" if others else f"Fresh {first}s"
    return Figure(
        title,
        tuple(Series.of(label, found) for label, found in (*lines, *controls) if found),
        kind="lines",
        x_label=_ORDER,
        y_label="share of rows read right",
        chance=chance,
        unit="share",
        caption=f"{fresh} on held-out rows; bands are intervals, dashed is a constant guess.{controlled}",
    )


def _of(findings: Sequence[Finding], family: str, condition: str) -> list[Finding]:
    return [f for f in findings if f.family == family and f.condition == condition]


def change_by_site(title: str, series: Sequence[tuple[str, Sequence[Finding]]], *, unit: str) -> Figure:
    """Change of the loss against the site, a line for each way to erase, the unscrubbed model as zero."""
    return Figure(
        title,
        tuple(Series.of(label, found) for label, found in series),
        kind="lines",
        x_label=_ORDER,
        y_label=f"change of loss ({unit})",
        chance=0.0,
        unit=unit,
        caption="One site at a time, against the unscrubbed model on the same sequences; bands are paired intervals.",
        reference="unscrubbed",
    )


def loss_by_condition(title: str, findings: Sequence[Finding], *, unit: str) -> Figure:
    """The loss of the model under each condition as a whole, with whiskers."""
    return Figure(
        title,
        (Series.of("loss", findings),),
        x_label=f"loss ({unit})",
        unit=unit,
        caption="Whiskers are intervals over sequences; differences are paired and far better known (see the table).",
    )
