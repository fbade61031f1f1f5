"""Audits of maps of importance. They take what maps did to a model as numbers, and know no method and no model."""

from __future__ import annotations

from efface.audit.explanations.measured import Measured, Subject

__all__ = ["Measured", "Subject"]
