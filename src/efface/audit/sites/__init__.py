"""Audits of a model that is scrubbed site by site: where can the concept be read, and what did taking it out cost?

Nothing here knows of models: a *site* is a name, with vectors of tokens or losses of sequences under it.
"""

from __future__ import annotations

from efface.audit.sites.control import control_labels
from efface.audit.sites.losses import audit_losses
from efface.audit.sites.probing import audit_sites

__all__ = ["audit_losses", "audit_sites", "control_labels"]
