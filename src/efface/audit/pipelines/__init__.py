"""Audits of text-to-image pipelines. They take samplers and judges as callables, and know no pipeline and no eraser."""

from __future__ import annotations

from efface.audit.pipelines.detection import Readings, audit_detection
from efface.audit.pipelines.presence import Judge, Sampler, audit_presence

__all__ = ["Judge", "Readings", "Sampler", "audit_detection", "audit_presence"]
