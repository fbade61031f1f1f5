"""Audits of remembrance: who and what was suppressed or elevated that nobody asked to erase.

After the duties that "The Right To Be Remembered" (arXiv:2510.16206) names: omission, fair treatment, truthfulness,
those with little presence. It gives no metric and no threshold; the statistics here are ours, and measure a declared
standard. `efface.audit.remembered` is the door.
"""

from __future__ import annotations

from efface.audit.remembrance.answering import AnswerSystem, RankedSystem
from efface.audit.remembrance.corpus import Corpus, Takedown, takedown_table, takedowns
from efface.audit.remembrance.exposure import DCG, RBP, Flat, UserModel
from efface.audit.remembrance.facts import Fact, FactSystem, Questions
from efface.audit.remembrance.interference import Interference
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.names import AliasMatcher
from efface.audit.remembrance.published import Results, read_questions, read_results
from efface.audit.remembrance.registry import Entity, Registry
from efface.audit.remembrance.related import related
from efface.audit.remembrance.streamed import StreamedLedger
from efface.audit.remembrance.systems import Mention, Observation, Query, System, ask

__all__ = [
    "DCG",
    "RBP",
    "AliasMatcher",
    "AnswerSystem",
    "Corpus",
    "Entity",
    "Fact",
    "FactSystem",
    "Flat",
    "Interference",
    "Ledger",
    "Mention",
    "Observation",
    "Query",
    "Questions",
    "RankedSystem",
    "Registry",
    "Results",
    "StreamedLedger",
    "System",
    "Takedown",
    "UserModel",
    "ask",
    "read_questions",
    "read_results",
    "related",
    "takedown_table",
    "takedowns",
]
