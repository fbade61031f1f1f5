"""Audits: is the concept gone, and what went with it? Independent of the erasers they judge.

`efface.audit(pipe, "circle", judge=...)` is `efface.audit_pipeline`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface._lazy import attach, make_callable

if TYPE_CHECKING:
    from efface.audit.audit import Audit
    from efface.audit.figure import Figure, Series, Table
    from efface.audit.finding import Finding
    from efface.audit.pipelines.presence import audit_presence
    from efface.audit.states.losses import audit_losses
    from efface.audit.states.probing import audit_sites
    from efface.audit.vectors.audit import audit_vectors
    from efface.audit.vectors.similarity import audit_similarity
    from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval

_NAMES = {
    "efface.audit.pipelines.presence": ("audit_presence",),
    "efface.audit.audit": ("Audit",),
    "efface.audit.figure": ("Figure", "Series", "Table"),
    "efface.audit.finding": ("Finding",),
    "efface.stats.intervals": ("Interval", "bootstrap_interval", "paired_interval", "wilson_interval"),
    "efface.audit.states.losses": ("audit_losses",),
    "efface.audit.states.probing": ("audit_sites",),
    "efface.audit.vectors.audit": ("audit_vectors",),
    "efface.audit.vectors.similarity": ("audit_similarity",),
}

__all__ = [
    "Audit",
    "Figure",
    "Finding",
    "Interval",
    "Series",
    "Table",
    "audit_losses",
    "audit_presence",
    "audit_similarity",
    "audit_sites",
    "audit_vectors",
    "bootstrap_interval",
    "paired_interval",
    "wilson_interval",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())

# What joins a pipeline, an erasure and an audit lives above all three; nothing here imports it.
make_callable(__name__, "efface.api:audit_pipeline")
