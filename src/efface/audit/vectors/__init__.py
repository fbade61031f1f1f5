"""Audits of erased vectors: is the concept gone for fresh probes, and what else went?"""

from __future__ import annotations

from efface.audit.vectors.association import Association, association
from efface.audit.vectors.guardedness import canonical_correlations, class_mean_gap, edit_size
from efface.audit.vectors.labels import Labels
from efface.audit.vectors.probes import PROBES, Probe, ProbeScores
from efface.audit.vectors.task import Task

__all__ = [
    "PROBES",
    "Association",
    "Labels",
    "Probe",
    "ProbeScores",
    "Task",
    "association",
    "canonical_correlations",
    "class_mean_gap",
    "edit_size",
]
