"""Audits of text-to-image pipelines. They take samplers and judges as callables, and know no pipeline and no eraser."""

from __future__ import annotations

from efface.audit.pipelines.detection import Readings
from efface.audit.pipelines.presence import Judge, Sampler

__all__ = ["Judge", "Readings", "Sampler"]
