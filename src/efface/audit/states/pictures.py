"""Figures of audits by site, as data."""

from __future__ import annotations

from collections.abc import Sequence

from efface.audit.figure import Figure, Series
from efface.audit.finding import Finding
from efface.audit.states.measures import CONTROL, PROBE
from efface.report.data import AFTER, BEFORE

_CONTROL_LABELS = {BEFORE: "control task", AFTER: "control task, after"}
_ORDER = "site, in the order given"


def accuracy_by_site(title: str, findings: Sequence[Finding], sites: Sequence[str]) -> Figure:
    """Accuracy of the probe before and after, and on the control task, against the site."""
    lines = [(c, [f for f in findings if f.family == PROBE and f.condition == c]) for c in (BEFORE, AFTER)]
    lines += [
        (label, [f for f in findings if f.family == CONTROL and f.condition == c])
        for c, label in _CONTROL_LABELS.items()
    ]
    chance = next(f.chance for f in findings if f.family == PROBE)
    controlled = " The control task is a random label for each word." if lines[2][1] else ""
    return Figure(
        title,
        tuple(Series.of(label, found) for label, found in lines if found),
        kind="lines",
        x_label=_ORDER,
        y_label="share of rows read right",
        chance=chance,
        unit="share",
        caption=f"Fresh linear probes on held-out rows; bands are intervals, dashed is a constant guess.{controlled}",
    )


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
