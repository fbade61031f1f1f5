"""Audits of a model that is scrubbed site by site: where can the concept be read, and what did taking it out cost?

Nothing here knows of models: a *site* is a name, with vectors of tokens or losses of sequences under it.
"""

from __future__ import annotations

from efface.audit.states.control import control_labels
from efface.audit.states.losses import audit_losses
from efface.audit.states.probing import audit_sites

__all__ = ["audit_losses", "audit_sites", "control_labels"]
