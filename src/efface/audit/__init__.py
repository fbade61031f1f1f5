"""Audits: is the concept gone, and what went with it? Independent of the erasers they judge."""

from __future__ import annotations

from efface.audit.finding import Audit, Figure, Finding, Series, Table
from efface.audit.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval

__all__ = [
    "Audit",
    "Figure",
    "Finding",
    "Interval",
    "Series",
    "Table",
    "bootstrap_interval",
    "paired_interval",
    "wilson_interval",
]
