"""Audits: is the concept gone, and what went with it? Independent of the erasers they judge.

| audit | of |
|---|---|
| `rows` | vectors before and after, by fresh probes; `similarity` of embeddings |
| `sites`, `losses` | hidden states of a model, site by site; what erasing cost it |
| `durability` | whether what was erased from a language model comes back: rounded, tuned on, states put back |
| `pipeline`, `gate` | what a text-to-image pipeline shows; which prompts an erasure acts on (`presence`, `detection`) |
| `erasure` | whether a concept has really gone from a pipeline, by probes that its eraser does not control |
| `remembered` | who and what else an erasure suppressed or elevated, from answers before and after |
| `maps` | maps of importance of a classifier, next to controls |

Each gives an `Audit`, which shows itself: `print(audit)`, and `.html() .markdown() .json() .to_frame() .plot()
.save(path)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface.audit.audit import Audit
    from efface.audit.explanations.maps import maps
    from efface.audit.figure import Figure, Series, Table
    from efface.audit.finding import Finding
    from efface.audit.pipelines.detection import detection
    from efface.audit.pipelines.gate import gate
    from efface.audit.pipelines.judges import ClassifierJudge, ClipJudge, FunctionJudge, NudeNetJudge
    from efface.audit.pipelines.pipeline import pipeline
    from efface.audit.pipelines.presence import presence
    from efface.audit.pipelines.probes.case import Pictures
    from efface.audit.pipelines.probes.erasure import erasure
    from efface.audit.remembrance.remembered import remembered
    from efface.audit.states.durability import durability
    from efface.audit.states.losses import losses
    from efface.audit.states.sites import sites
    from efface.audit.subjects import access_of
    from efface.audit.vectors.rows import rows
    from efface.audit.vectors.similarity import similarity
    from efface.audit.vectors.task import Task
    from efface.stats.intervals import Interval, bootstrap_interval, paired_interval, wilson_interval

_NAMES = {
    "efface.audit.audit": ("Audit",),
    "efface.audit.explanations.maps": ("maps",),
    "efface.audit.figure": ("Figure", "Series", "Table"),
    "efface.audit.finding": ("Finding",),
    "efface.audit.pipelines.detection": ("detection",),
    "efface.audit.pipelines.gate": ("gate",),
    "efface.audit.pipelines.judges": ("ClassifierJudge", "ClipJudge", "FunctionJudge", "NudeNetJudge"),
    "efface.audit.pipelines.pipeline": ("pipeline",),
    "efface.audit.pipelines.presence": ("presence",),
    "efface.audit.pipelines.probes.case": ("Pictures",),
    "efface.audit.pipelines.probes.erasure": ("erasure",),
    "efface.audit.remembrance.remembered": ("remembered",),
    "efface.audit.states.durability": ("durability",),
    "efface.audit.states.losses": ("losses",),
    "efface.audit.states.sites": ("sites",),
    "efface.audit.subjects": ("access_of",),
    "efface.audit.vectors.rows": ("rows",),
    "efface.audit.vectors.similarity": ("similarity",),
    "efface.audit.vectors.task": ("Task",),
    "efface.stats.intervals": ("Interval", "bootstrap_interval", "paired_interval", "wilson_interval"),
}

__all__ = [
    "Audit",
    "ClassifierJudge",
    "ClipJudge",
    "Figure",
    "Finding",
    "FunctionJudge",
    "Interval",
    "NudeNetJudge",
    "Pictures",
    "Series",
    "Table",
    "Task",
    "access_of",
    "bootstrap_interval",
    "detection",
    "durability",
    "erasure",
    "gate",
    "losses",
    "maps",
    "paired_interval",
    "pipeline",
    "presence",
    "remembered",
    "rows",
    "similarity",
    "sites",
    "wilson_interval",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
