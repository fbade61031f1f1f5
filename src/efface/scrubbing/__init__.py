"""Erasers inside models: fitted site after site, put on and taken off as hooks, or folded into the weights."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Batches": "efface.scrubbing.batches",
        "ConceptScrubber": "efface.scrubbing.concept_scrubber",
        "Fold": "efface.scrubbing.fold",
        "IGNORE": "efface.scrubbing.labels",
        "RandomSubspace": "efface.scrubbing.controls",
        "Scrubber": "efface.scrubbing.scrubber",
        "Site": "efface.core.site",
        "collect": "efface.scrubbing.features",
        "find_sites": "efface.scrubbing.sites",
        "foldable": "efface.scrubbing.fold",
        "labels_from_characters": "efface.scrubbing.labels",
        "labels_from_spans": "efface.scrubbing.labels",
        "nnsight_edited": "efface.scrubbing.adapters",
        "scrub": "efface.scrubbing.fitting",
        "transformer_lens_hooks": "efface.scrubbing.adapters",
    },
    globals(),
)
