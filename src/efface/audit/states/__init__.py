"""Audits of a model that is scrubbed site by site: where can the concept be read, and what did taking it out cost?

Nothing here knows of models: a *site* is a name, with vectors of tokens or losses of sequences under it.
"""

from __future__ import annotations

from efface.audit.states.control import control_labels

__all__ = ["control_labels"]
